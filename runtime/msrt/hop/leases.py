"""How long each child may be silent: longer for one that was given up and was not dead. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Leases"]

MOST: Final = 8.0
"""A lease grows to so many times the setting."""
BACK_S: Final = 30.0
"""Who comes back later than this was cut off: no lease would have waited for it."""
CALM_S: Final = 120.0
"""After so long without being given up wrongly, a child's next session begins with half of its lease."""
DOUBTS: Final = 4096
"""Children of which it is remembered; beyond, those that were doubted longest ago are not."""


@dataclass(slots=True)
class _Doubt:
    boot: int
    lease_s: float
    given_up: float
    """When its lease ran out the last time."""
    away: bool = True


class Leases:
    """The lease that each child gets at its next session.

    A starved process is silent like a dead one, and pays for being taken for dead with a handshake, a new session and
    all that was under way: more work, for which it is silent again. So a child that comes back in the same life within
    `BACK_S` gets twice its lease, up to `MOST` times the setting (Chandra and Toueg, "Unreliable failure detectors for
    reliable distributed systems", JACM 43(2), 1996: a detector that waits longer after each mistake makes finitely
    many). A killed process is noticed by its link as soon as ever.
    """

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._doubts: dict[str, _Doubt] = {}

    def ran_out(self, child: str, boot: int, lease_s: float, now: float) -> None:
        """Nothing was heard of the child for its lease, and it was given up."""
        self._doubts.pop(child, None)
        while len(self._doubts) >= DOUBTS:
            del self._doubts[next(iter(self._doubts))]
        self._doubts[child] = _Doubt(boot, lease_s, now)

    def of(self, child: str, boot: int, now: float) -> float:
        """The lease of a session that begins now, in seconds."""
        doubt = self._doubts.get(child)
        if doubt is None:
            return self.lease_s
        since = now - doubt.given_up
        if doubt.boot != boot or (doubt.away and since > BACK_S):
            del self._doubts[child]
            return self.lease_s
        if doubt.away:
            doubt.away, doubt.lease_s = False, min(2 * doubt.lease_s, MOST * self.lease_s)
        elif since > CALM_S:
            doubt.given_up, doubt.lease_s = now, doubt.lease_s / 2
        if doubt.lease_s <= self.lease_s:
            del self._doubts[child]
            return self.lease_s
        return doubt.lease_s
