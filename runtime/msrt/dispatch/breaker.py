"""A circuit breaker per model version and worker, as one table.

Closed lets work through and counts; open lets none; half-open lets one batch through to see. The time it stays open
doubles with each trip in a row and is jittered, so that what was ejected together does not return together.
"""

from __future__ import annotations

import enum
import random  # noqa: TID251 - the type only; the object is passed in

__all__ = ["TRANSITIONS", "Breaker", "Circuit", "Signal"]


class Circuit(enum.Enum):
    """Whether work goes through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Signal(enum.Enum):
    """What a breaker hears."""

    SUCCESS = "success"
    FAILURE = "failure"
    """Counted; enough of them are a TRIP."""
    TRIP = "trip"
    """Too many failures, or much slower than the others."""
    RESTED = "rested"
    """The time is over."""


_C, _S = Circuit, Signal
TRANSITIONS: dict[tuple[Circuit, Signal], Circuit] = {
    (_C.CLOSED, _S.SUCCESS): _C.CLOSED,
    (_C.CLOSED, _S.FAILURE): _C.CLOSED,
    (_C.CLOSED, _S.TRIP): _C.OPEN,
    (_C.CLOSED, _S.RESTED): _C.CLOSED,
    (_C.OPEN, _S.SUCCESS): _C.OPEN,  # late, of what was sent before
    (_C.OPEN, _S.FAILURE): _C.OPEN,
    (_C.OPEN, _S.TRIP): _C.OPEN,
    (_C.OPEN, _S.RESTED): _C.HALF_OPEN,
    (_C.HALF_OPEN, _S.SUCCESS): _C.CLOSED,
    (_C.HALF_OPEN, _S.FAILURE): _C.OPEN,
    (_C.HALF_OPEN, _S.TRIP): _C.OPEN,
    (_C.HALF_OPEN, _S.RESTED): _C.HALF_OPEN,
}

STREAK = 5
"""Failures in a row that trip it ..."""
SHARE = 0.5
"""... or this smoothed share of failures, once `SEEN` batches were seen."""
SEEN = 10
SMOOTH = 0.1
BASE_S = 1.0
MAX_S = 60.0
JITTER = 0.2
FORGIVEN_S = 60.0
"""After so long without a trip the next one counts as the first."""


class Breaker:
    """Of one slot. `until` is when an open one has rested."""

    __slots__ = ("_seen", "_share", "_streak", "_tripped", "circuit", "trips", "until")

    def __init__(self) -> None:
        self.circuit = Circuit.CLOSED
        self.until = 0.0
        self.trips = 0
        """In a row."""
        self._tripped = 0.0
        self._streak = self._seen = 0
        self._share = 0.0

    def success(self) -> bool:
        """A batch was answered well. True if that changed the state."""
        self._streak = 0
        if self._share:
            self._share *= 1 - SMOOTH
        self._seen += 1
        if self.circuit is not Circuit.HALF_OPEN:
            return False
        return self._move(Signal.SUCCESS)

    def failure(self, now: float, rng: random.Random) -> bool:
        """A batch failed, or its answer was not one. True if that changed the state."""
        self._streak += 1
        self._seen += 1
        self._share += SMOOTH * (1 - self._share)
        if self.circuit is Circuit.HALF_OPEN or self._streak >= STREAK or (self._seen >= SEEN and self._share >= SHARE):
            return self.trip(now, rng)
        return False

    def trip(self, now: float, rng: random.Random) -> bool:
        """Open it, for longer each time. True if that changed the state."""
        if self.circuit is Circuit.OPEN:
            return False
        if self.circuit is Circuit.CLOSED and now - self._tripped > FORGIVEN_S:
            self.trips = 0
        rest = min(BASE_S * 2.0 ** min(self.trips, 16), MAX_S)
        self.trips += 1
        self._tripped = now
        self.until = now + rest * (1 + JITTER * (2 * rng.random() - 1))
        return self._move(Signal.TRIP)

    def rested(self, now: float) -> bool:
        """Let one batch through if the time is over. True if that changed the state."""
        return self.circuit is Circuit.OPEN and now >= self.until and self._move(Signal.RESTED)

    def _move(self, signal: Signal) -> bool:
        before, self.circuit = self.circuit, TRANSITIONS[self.circuit, signal]
        if self.circuit is Circuit.CLOSED:
            self._streak = self._seen = 0
            self._share = 0.0
        return self.circuit is not before
