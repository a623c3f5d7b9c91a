"""What one rollout asks of one device, and whose rollout a microcontroller follows: it holds one model at a time. Pure.

Its firmware has room for one, and another one takes seconds on a serial line: two that took turns would each wait for
the other, and its own sensor would be read by whichever was asked last. So one rollout has the board: one that names
its devices before one that is for all, of two like these the newer. With that one withdrawn, or rolled back to nothing,
the board goes to the next.
"""

from __future__ import annotations

from collections.abc import Iterable

from msrt.dispatch.canary import is_canary
from msrt.journal.facts import RolloutSet

__all__ = ["board_follows", "versions_for"]


def versions_for(rollout: RolloutSet, region: str, node: str) -> list[int]:
    """Versions that a device which its selector matches should hold, the one it serves first."""
    if rollout.state == "withdrawn":
        return []
    if rollout.state == "rolled_back":
        return [rollout.previous] if rollout.previous else []
    if rollout.state == "canary" and not is_canary(rollout.canary, region, node, rollout.model):
        return [rollout.previous] if rollout.previous else []
    if rollout.state == "canary" and rollout.previous:
        pair = [rollout.version, rollout.previous]
        return pair[::-1] if rollout.traffic else pair  # its own sensors are read by the version that serves
    return [rollout.version]


def board_follows(rollouts: Iterable[RolloutSet]) -> RolloutSet:
    """Of those that ask something of a microcontroller, one at least."""
    return max(rollouts, key=lambda rollout: (bool(rollout.selector), rollout.began or rollout.wall, rollout.model))
