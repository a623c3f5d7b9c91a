"""When a round stops waiting, derived from what nodes show: whoever is usual is waited for, stragglers are not."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

import msgspec

__all__ = ["Durations", "Pace"]

MEMORY: Final = 512
"""Reports remembered."""
ENOUGH: Final = 8
"""Reports that must have been seen before their spread means something."""
NORMAL: Final = 1.4826
"""A median absolute deviation times this is a standard deviation, where times are spread normally."""


class Durations:
    """How long nodes took from the opening of a round to their report; one per job and master, kept over rounds."""

    def __init__(self, deviations: float) -> None:
        """`deviations`: of the nodes' times, beyond which one is a straggler; 0: nobody ever is."""
        self.deviations = deviations
        self._seen: deque[float] = deque(maxlen=MEMORY)

    def add(self, seconds: float) -> None:
        if seconds >= 0 and math.isfinite(seconds):
            self._seen.append(seconds)

    @property
    def usual(self) -> float | None:
        """Median plus so many (scaled) median absolute deviations, in seconds; None while too little is known."""
        if not self.deviations or len(self._seen) < ENOUGH:
            return None
        middle = median(self._seen)
        spread = NORMAL * median(abs(seconds - middle) for seconds in self._seen)
        return middle + self.deviations * spread


class Pace(msgspec.Struct, frozen=True):
    """At the deadline at the latest. Once the quorum is met, `grace` seconds after what is usual is over; while that is
    not known, after `patience` times as long as the quorum took.
    """

    opened: float
    deadline: float
    quorum: int
    patience: float = 4.0
    grace: float = 1.5
    usual: float | None = None
    """Seconds."""

    def until(self, met: float | None) -> float:
        """The moment to stop, when the quorum was met at `met`."""
        if met is None:
            return self.deadline
        if self.usual is not None:
            return min(self.deadline, max(met, self.opened + self.usual) + self.grace)
        return min(self.deadline, self.opened + self.patience * (met - self.opened) + self.grace)
