"""How many updates become one."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from msrt.learning.rules import RULE, Rule, open_rule
from msrt.training.settings.base import NotNegative, Table

__all__ = ["Aggregation"]

RULES: Final = "mean, median, trimmed:SHARE (as trimmed:0.1), krum:F, multi-krum:F:M or bulyan:F (F nodes may lie)"


class Aggregation(Table, frozen=True):
    """[aggregate]: how the updates of a round become one. See msrt.learning.rules."""

    rule: Annotated[str, msgspec.Meta(pattern=RULE, description=RULES)] = "mean"
    """mean, median, trimmed:SHARE, krum:F, multi-krum:F:M or bulyan:F; F nodes of a round may lie, with
    regions F of each. Krum and its kin compare all pairs: their time grows with the square of the nodes."""
    tier: Literal["cloud", "region"] = "cloud"
    """Where a rule other than the mean works. cloud: on all updates, which edges pass on one by one. region: each edge
    on those of its own devices, and the cloud takes the mean of the regions, each by its number of devices."""
    clip: NotNegative = 0.0
    """A node's update that is longer (L2) is shortened to this; 0: none is."""

    def __post_init__(self) -> None:
        if self.tier == "region" and not self.opened.robust:
            raise ValueError("[aggregate] tier says nothing to the mean: it is the same on every tier")

    @property
    def opened(self) -> Rule:
        """The rule."""
        return open_rule(self.rule)

    @property
    def regional(self) -> str:
        """What edges shall do; empty: what they do anyway."""
        return self.rule if self.tier == "region" else ""

    @property
    def alone(self) -> bool:
        """Must every update come up to the cloud as it is?"""
        return self.opened.robust and self.tier == "cloud"
