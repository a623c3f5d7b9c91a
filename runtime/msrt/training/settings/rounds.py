"""How a round is held: how updates travel, and when it ends."""

from __future__ import annotations

from typing import Literal

from msrt.training.settings.base import Codec, Count, NotNegative, Positive, Table

__all__ = ["Compression", "Pacing"]


class Compression(Table, frozen=True):
    """[compression]: how updates and weights travel, link by link."""

    device: Codec = "int8"
    """A device's update on its way to the edge."""
    region: Codec = "int8"
    """A region's sum on its way to the cloud."""
    down: Codec = "fp32"
    """The change of the weights since the version that a node has; fp32: the weights themselves."""


class Pacing(Table, frozen=True):
    """[pace]: when a round ends, and what becomes of late updates."""

    deviations: NotNegative = 4.0
    """Once the quorum is met, nobody is waited for beyond the median of the nodes' times and so many (scaled) median
    absolute deviations; 0: a share of the deadline decides."""
    late: Literal["drop", "next"] = "drop"
    """What is not in its round: dropped, or used in a following one."""
    staleness: Positive = 8
    """So many rounds old may a late update be."""
    discount: NotNegative = 0.5
    """An update that is s rounds old weighs (1 + s) ** -discount of a fresh one."""
    buffer: Count = 0
    """Asynchronous (FedBuff): a round ends when so many updates are here, and nodes go on at their own pace. 0: off."""
    steps: Positive = 1
    """A region does so many rounds of its own between two of the cloud's."""
    partial: bool = False
    """A straggler sends what it has done of its epochs while its region still waits, instead of nothing in time."""

    def __post_init__(self) -> None:
        if self.partial and self.buffer:
            raise ValueError("[pace] partial: with a `buffer` nobody is late, so nobody need stop early")

    @property
    def keeps_late(self) -> bool:
        return self.late == "next" or self.buffer > 0

    def since(self, number: int) -> int:
        """The oldest round whose updates may still count in this one; 0 where only its own do."""
        return max(1, number - self.staleness) if self.keeps_late else 0
