"""Token buckets: what retries and hedges may add to the work."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Each request that is sent for the first time earns `ratio` of a token, each second earns `floor`, and at most
    `most` are kept: as Finagle's RetryBudget.
    """

    __slots__ = ("_at", "_floor", "_most", "_ratio", "tokens")

    def __init__(self, ratio: float, floor: float, most: float) -> None:
        self._ratio, self._floor, self._most = ratio, floor, most
        self.tokens = most
        self._at = 0.0

    def earn(self, count: int) -> None:
        self.tokens = min(self.tokens + self._ratio * count, self._most)

    def spend(self, count: int, now: float) -> bool:
        """Take so many tokens if they are there."""
        if self._floor:
            self.tokens = min(self.tokens + self._floor * max(now - self._at, 0.0), self._most)
            self._at = now
        if self.tokens < count:
            return False
        self.tokens -= count
        return True
