"""How a round is held: how updates travel, and when it ends."""

from __future__ import annotations

from typing import Literal

from msrt.learning.selection import Strategy, Wanted
from msrt.training.settings.base import Codec, Count, NotNegative, Part, Positive, Share, Table

__all__ = ["Compression", "Pacing", "Sampling"]


class Compression(Table, frozen=True):
    """[compression]: how updates and weights travel, link by link."""

    device: Codec = "int8"
    """A device's update on its way to the edge."""
    region: Codec = "int8"
    """A region's sum on its way to the cloud."""
    down: Codec = "fp32"
    """The change of the weights since the version that a node has; fp32: the weights themselves."""


class Sampling(Table, frozen=True):
    """[sampling]: whom a round asks, of all devices that `select` names. See msrt.learning.selection."""

    strategy: Strategy = "random"
    """random; available: rather those that answered of late; utility: rather those with much to learn from (Oort)."""
    share: Share = 1.0
    """Of all that are here."""
    count: Count = 0
    """So many, instead of a share; 0: the share decides."""
    fairness: Count = 0
    """Nobody who is here sits out more than so many rounds in a row; 0: no bound."""
    explore: Part = 0.2
    """With utility: share of the places for devices that no round has asked yet."""

    @property
    def partial(self) -> bool:
        """May a round ask fewer than all?"""
        return self.count > 0 or self.share < 1

    def wanted(self, devices: int, least: int, most: int) -> Wanted:
        """Of so many devices; `least` and `most` that a round may have."""
        count = max(least, self.count or round(self.share * devices))
        return Wanted(self.strategy, min(count, most), most, self.fairness, self.explore)


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
    """An update that is s rounds old weighs (1 + s) ** -discount of a fresh one; in a buffer it is so much shorter."""
    buffer: Count = 0
    """Asynchronous (FedBuff): a round ends when so many updates are here, and nodes go on at their own pace. 0: off."""
    steps: Positive = 1
    """A region does so many rounds of its own between two of the cloud's."""
    partial: bool = False
    """A straggler sends what it has done of its epochs while its region still waits, instead of nothing in time."""

    @property
    def keeps_late(self) -> bool:
        return self.late == "next" or self.buffer > 0

    def since(self, number: int) -> int:
        """The oldest round whose updates may still count in this one; 0 where only its own do."""
        return max(1, number - self.staleness) if self.keeps_late else 0
