"""How far each worker is, and who may go on.

A worker's *clock* counts the pushes it has done with. It may work on the next one while it is at most `bound` clocks
ahead of the slowest (Ho 2013): 0 is a barrier, no bound is asynchronous. Who leaves holds nobody any more; who comes
enters at the lowest clock, so nobody has to wait for what a newcomer has not done.
"""

from __future__ import annotations

import enum
import math

__all__ = ["Clocks", "Mode"]


class Mode(enum.StrEnum):
    """How workers wait for each other."""

    SYNC = "sync"
    SSP = "ssp"
    ASYNC = "async"


class Clocks:
    """The table of one server. `ahead`: pushes that a worker has on their way while it computes the next one."""

    def __init__(self, mode: Mode, staleness: int = 0, ahead: int = 0) -> None:
        self.mode = mode
        self.bound = {Mode.SYNC: 0.0, Mode.SSP: float(staleness), Mode.ASYNC: math.inf}[mode]
        self.ahead = min(ahead, self.bound)
        self.floor = 0
        """No worker is behind it, nor will one be."""
        self.done: dict[str, int] = {}

    @property
    def lowest(self) -> int:
        """The slowest worker's clock; where there is none, the last one's that there was."""
        return min(self.done.values(), default=self.floor)

    @property
    def gap(self) -> int:
        """How far the fastest is ahead of the slowest."""
        return max(self.done.values(), default=self.floor) - self.lowest

    def join(self, worker: str, at: int = 0) -> int:
        """A worker comes, or comes back, and says how far it is; the clock it enters at."""
        entered = max(at, self.lowest, self.floor, self.done.get(worker, 0))
        self.done[worker] = entered
        self._rise()
        return entered

    def finish(self, worker: str, clock: int) -> None:
        """It is done with that clock: its push is here."""
        self.done[worker] = max(self.done[worker], clock + 1, self.floor)
        self._rise()

    def leave(self, worker: str) -> None:
        """It is gone, or taken for dead."""
        self.done.pop(worker, None)
        self._rise()

    def may(self, worker: str) -> bool:
        """May it go on, with as many pushes on their way as workers have?"""
        done = self.done.get(worker)
        return done is not None and done + self.ahead - self.lowest <= self.bound

    def late(self, clock: int) -> bool:
        """Is a push of that clock one that nobody may still have at work? Then it is too stale to be counted."""
        return clock + self.bound < self.floor

    def _rise(self) -> None:
        self.floor = max(self.floor, self.lowest)
