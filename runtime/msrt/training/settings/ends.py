"""What becomes of a job that is over."""

from __future__ import annotations

from msrt.training.settings.base import Count, NotNegative, Positive, Table

__all__ = ["Baseline", "Publish", "Trigger"]


class Baseline(Table, frozen=True):
    """[baseline]: also train each node alone and all data pooled, for as many epochs as the rounds do together."""

    epochs: Count = 0
    """0 means rounds * train.epochs."""


class Publish(Table, frozen=True):
    """[publish]: push the finished model to the registry, and roll it out."""

    model: str
    rollout: bool = False
    canary: str = ""
    to: str = ""
    max_drop: float = 0.01


class Trigger(Table, frozen=True):
    """[trigger]: once it is over, start the job again, from the weights it ended with, when devices report enough."""

    events: Count = 0
    """New events of the model since the job was created; 0: they start nothing."""
    drift: NotNegative = 0.0
    """A device's readings are so far (PSI) from those the model was made with: 0.1 is some, 0.25 much. 0: never."""
    devices: Positive = 1
    """So many of them must report that."""
    model: str = ""
    """Whose events; empty: of the model that [publish] names."""
    cooldown_s: NotNegative = 3600.0
    """Least time from the end of one job to the beginning of the next."""
