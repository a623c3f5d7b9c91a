"""How many batches may fly to one worker at once: adapted to what it can overlap.

The gradient of Netflix's concurrency-limits (Gradient2): time without a queue over time now. Below 1 somebody waits, so
the limit falls; at 1 there may be room, so it grows by one allowance. Here it only grows where batches cannot: a wider
window makes smaller batches, and those cost everybody more. It never falls below its start, which hides the way.
"""

from __future__ import annotations

__all__ = ["GradientLimit"]

TOLERANCE = 1.5
SMOOTH = 0.2
HEADROOM = 1.0
BASE_RISE = 0.1
"""How fast the remembered way to the worker and back grows: a route may have become longer."""


class GradientLimit:
    """Batches in flight to one slot, between `start` and `most`."""

    __slots__ = ("_most", "_start", "base", "batches", "size")

    def __init__(self, start: int, most: int) -> None:
        self.size = self._start = float(start)
        self.batches = start
        """`size` as whole batches: read some times for each of them, so no property."""
        self.base = 0.0
        """Seconds of the way alone, without queue and work; 0 while unknown."""
        self._most = float(max(start, most))

    def add(self, seconds: float, work: float, *, alone: bool, cramped: bool) -> None:
        """A batch came back after `seconds`, of which `work` was computing. `alone`: nothing flew before it; `cramped`:
        more waited than could ride."""
        way = max(seconds - work, 0.0)
        if not self.base or way < self.base:
            self.base = way
        elif alone:
            self.base += BASE_RISE * (way - self.base)
        if seconds <= 0:
            return
        gradient = min(max(TOLERANCE * (self.base + work) / seconds, 0.5), 1.0)
        aim = self.size * gradient + HEADROOM
        if aim > self.size and not cramped:
            return
        self.size = min(max(self.size + SMOOTH * (aim - self.size), self._start), self._most)
        self.batches = int(self.size)
