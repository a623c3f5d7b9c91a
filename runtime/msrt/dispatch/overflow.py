"""Where a request goes that this region cannot answer: the cheapest way on, or nowhere. Pure.

A request is passed on at most `HOPS` times, never to who passed it here, and by a cloud only to edges that have the
model: so it visits no node twice, and two full regions cannot play ball with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["HOPS", "TRIES", "Path", "choose"]

HOPS: Final = 2
TRIES: Final = 2
"""Ways that one node tries for one request."""
_WEIGHT: Final = 0.3
_UNKNOWN_S: Final = 0.005
"""What an untried way is taken to cost: little, so that it is tried."""
REST_S: Final = 1.0
LONG_REST_S: Final = 10.0


class Path:
    """One way on, with what was measured on it."""

    def __init__(self, name: str, region: str) -> None:
        self.name, self.region = name, region
        self.round_trip_s = 0.0
        """Of a request, less what it waited and was computed there."""
        self.queue_s = 0.0
        """What requests last waited there."""
        self._rests: dict[str, float] = {}
        self.passed = self.failed = 0

    def cost(self) -> float:
        """Seconds that a request is expected to lose this way."""
        return (self.round_trip_s or _UNKNOWN_S) + self.queue_s

    def answered(self, took_s: float, compute_s: float, queue_s: float) -> None:
        """A request came back."""
        travel = max(1e-6, took_s - compute_s - queue_s)
        self.round_trip_s += _WEIGHT * (travel - self.round_trip_s) if self.round_trip_s else travel
        self.queue_s += _WEIGHT * (queue_s - self.queue_s)
        self.passed += 1

    def refused(self, model: str, code: str, retry_after_s: float, now: float) -> None:
        """It could not: it is full for a moment, or does not have this model at all."""
        self.failed += 1
        rest = LONG_REST_S if code in ("not_found", "forbidden", "invalid_tensor") else max(REST_S, retry_after_s)
        if len(self._rests) > 256:
            self._rests.clear()
        self._rests[model] = now + min(rest, LONG_REST_S)

    def resting(self, model: str, now: float) -> bool:
        """Whether it refused this model a moment ago."""
        until = self._rests.get(model)
        if until is None:
            return False
        if until <= now:
            del self._rests[model]
            return False
        return True


def choose(
    paths: Iterable[Path], model: str, *, hops: int, asker: str, left_s: float, now: float, tried: Iterable[str] = ()
) -> Path | None:
    """The cheapest way that may be gone and can still make the deadline; None: there is none.

    `hops`: how often the request was passed on; `asker`: the node that passed it here, empty for a caller of our own.
    """
    if hops >= HOPS or left_s <= 0:
        return None
    gone = {asker, *tried}
    open_ = [p for p in paths if p.name not in gone and not p.resting(model, now) and p.cost() < left_s]
    return min(open_, key=lambda path: (path.cost(), path.name), default=None)
