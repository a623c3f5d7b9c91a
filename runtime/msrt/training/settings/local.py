"""What one node does in one round."""

from __future__ import annotations

from typing import Literal

import msgspec

from msrt.training.settings.base import Decay, NotNegative, Positive, Rate, Share, Table

__all__ = ["Limits", "TrainSettings"]


class TrainSettings(Table, frozen=True):
    """[train]: what one node does in one round."""

    epochs: Positive = 1
    batch: Positive = 32
    lr: Rate = 0.05
    decay: Share = 1.0
    """lr is multiplied by it after every round, so that late rounds move less."""
    momentum: Decay = 0.9
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 0.0
    """Largest gradient norm, 0 for none."""
    algorithm: Literal["fedavg", "scaffold"] = "fedavg"
    """scaffold: nodes correct their steps by what their gradients usually are, against everybody's."""
    proximal: NotNegative = 0.0
    """FedProx: mu. Holds a node near the weights it was given; 0: FedAvg."""
    keep_local: tuple[str, ...] = ()
    """Patterns of tensors (`head.*`) that never travel: every node has its own, and is judged with it."""

    within_s: NotNegative = 0.0
    """A node that has trained for so long sends what it has done of its epochs; 0: it does them all."""

    def __post_init__(self) -> None:
        if self.algorithm == "scaffold" and self.momentum:
            raise ValueError("[train] scaffold takes a node's mean gradient from its way: set `momentum = 0`")

    def at(self, round_: int) -> TrainSettings:
        """Those of a round: its learning rate has decayed."""
        return msgspec.structs.replace(self, lr=self.lr * self.decay ** max(0, round_ - 1))


class Limits(Table, frozen=True):
    """[limits]: of the runner's process."""

    memory_mb: Positive = 2048
    cpu_s: Positive = 600
    """CPU seconds of one command."""
    file_mb: Positive = 1024
    """The largest file it may write."""
