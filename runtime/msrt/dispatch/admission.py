"""Who may wait: bounds of the queue in items, bytes and age, and how long to stay away when it is full."""

from __future__ import annotations

from msrt.errors import Overloaded

__all__ = ["Admission"]

WINDOW_S = 0.5
MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0


class Admission:
    """Counts what waits, over all pools, and how fast it goes."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.items = 0
        self.bytes = 0
        self.rate = 0.0
        """Requests answered per second, smoothed; 0 while unknown."""
        self._since = 0.0
        self._served = 0

    def refuse(self, size: int) -> str:
        """Why one more of this size may not wait; empty if it may."""
        if self.items >= self.max_items:
            return f"{self.items} requests wait"
        if self.bytes + size > self.max_bytes:
            return f"{self.bytes} bytes wait"
        return ""

    def entered(self, size: int) -> None:
        self.items += 1
        self.bytes += size

    def left(self, size: int) -> None:
        self.items -= 1
        self.bytes -= size

    def served(self, count: int, now: float) -> None:
        """Requests got an answer."""
        self._served += count
        elapsed = now - self._since
        if elapsed >= WINDOW_S:
            rate = self._served / elapsed
            self.rate = rate if not self.rate or elapsed > 4 * WINDOW_S else 0.5 * (self.rate + rate)
            self._since, self._served = now, 0

    def overloaded(self, why: str) -> Overloaded:
        """The error, with the time in which what waits now should be through."""
        error = Overloaded(f"the queue is full: {why}")
        wait = self.items / self.rate if self.rate else 1.0
        error.retry_after = min(max(wait, MIN_RETRY_S), MAX_RETRY_S)
        error.hint = f"try again in {error.retry_after:.2g} s"
        return error
