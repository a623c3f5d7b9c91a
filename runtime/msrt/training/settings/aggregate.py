"""How many updates become one."""

from __future__ import annotations

from msrt.training.settings.base import NotNegative, Table

__all__ = ["Aggregation"]


class Aggregation(Table, frozen=True):
    """[aggregate]: how the updates of a round become one."""

    clip: NotNegative = 0.0
    """A node's update that is longer (L2) is shortened to this; 0: none is."""
