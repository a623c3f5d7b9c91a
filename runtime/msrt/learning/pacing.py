"""When a round stops waiting, derived from what nodes show: whoever is usual is waited for, stragglers are not."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

import msgspec

__all__ = ["Durations", "Pace", "allowance", "left_to_work", "patient"]

MEMORY: Final = 512
"""Reports remembered."""
ENOUGH: Final = 8
"""Reports that must have been seen before their spread means something."""
WAIT: Final = 1.25
"""A round waits so many times longer than its stragglers may work."""
BEGIN: Final = 0.25
"""Of the time that a node may work, the share that it has even if fetching, or starting its process, took all of it."""
NORMAL: Final = 1.4826
"""A median absolute deviation times this is a standard deviation, where times are spread normally."""


class Durations:
    """How long nodes took from the opening of a round to their report; one per job and master, kept over rounds."""

    def __init__(self, deviations: float) -> None:
        """`deviations`: of the nodes' times, beyond which one is a straggler; 0: nobody ever is."""
        self.deviations = deviations
        self._seen: deque[float] = deque(maxlen=MEMORY)

    def add(self, seconds: float, work: float = 1.0) -> None:
        """A report. Who did a share of its work only would have needed so much longer for all of it."""
        if seconds >= 0 and math.isfinite(seconds):
            self._seen.append(seconds / work if 0 < work <= 1 else seconds)

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
    least: float = 0.0
    """Seconds that are waited in any case while somebody is missing: until then stragglers send what they have."""

    def until(self, met: float | None) -> float:
        """The moment to stop, when the quorum was met at `met`."""
        if met is None:
            return self.deadline
        if self.usual is not None:
            enough = max(met, self.opened + self.usual)
        else:
            enough = self.opened + self.patience * (met - self.opened)
        return min(self.deadline, max(enough, self.opened + self.least) + self.grace)


def allowance(window: float, usual: float | None) -> float:
    """Seconds after which a straggler sends what it has, where its region waits `window` seconds at most.

    Who is usual does all its work; before it is known what that is, whoever needs half of the window does.
    """
    return min(window / WAIT, usual) if usual is not None else window / 2


def left_to_work(work_s: float, passed: float) -> float:
    """Of the seconds that a node may work, after so many of the round: however long it took to begin, some are left."""
    return max(work_s - passed, BEGIN * work_s)


def patient(work_s: float) -> float:
    """Seconds to wait for who stops its work after so many: the batch under way, and the way up."""
    return WAIT * work_s
