"""How updates are hidden from the edges that add them up."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from msrt.protocol.messages import SecurePlan
from msrt.training.settings.base import NotNegative, Rate, Share, Table

__all__ = ["SecureSettings"]


class SecureSettings(Table, frozen=True):
    """[secure]: edges see the sum of their devices' updates, never one of them. See msrt.learning.secure_aggregation.

    A device's update then travels as fixed point numbers of `bits`, whatever `compression.device` says.
    """

    clip: Rate = 10.0
    """Largest Euclidean norm of a device's update. The device shortens a longer one itself: nobody else can see it."""
    span: NotNegative = 0.0
    """Largest magnitude of one parameter's change; 0: as large as `clip`. A smaller one makes finer steps."""
    bits: Literal[16, 32] = 32
    """Of one parameter on the way to the edge. A step is span * devices / 2^(bits - 1), for who has `max_samples`."""
    threshold: Share = 0.5
    """Share of a device's neighbours, and always more than half, without whom no mask comes off."""
    dropouts: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.2
    """So large a share of a region's devices may drop out of a round and it has its sum, but for 1 in 10,000."""
    neighbours: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Devices with which one shares masks; 0: as many as `dropouts` and `threshold` ask for."""

    def plan(self, opening: int) -> SecurePlan:
        """What devices and edges are told. `opening`: how often the round was given up before."""
        return SecurePlan(
            self.clip, self.span, self.bits, self.threshold, self.dropouts, self.neighbours, opening=opening
        )
