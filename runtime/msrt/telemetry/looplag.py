"""How late the event loop wakes up: the one number that shows that something held it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Final

__all__ = ["LoopLag"]

INTERVAL_S: Final = 0.05
SAMPLES: Final = 6000
"""Kept for `quantile`: five minutes."""


class LoopLag:
    """Sleeps briefly, again and again, and records how much longer it took."""

    def __init__(self, now: Callable[[], float], observe: Callable[[float], None] | None = None) -> None:
        """`now`: World.now (uvloop's own clock stands still during a callback); `observe`: a histogram's method."""
        self._now, self._observe = now, observe
        self._samples: collections.deque[float] = collections.deque(maxlen=SAMPLES)

    async def watch(self, interval_s: float = INTERVAL_S) -> None:
        """Runs until cancelled."""
        while True:
            before = self._now()
            await asyncio.sleep(interval_s)
            lag = max(0.0, self._now() - before - interval_s)
            self._samples.append(lag)
            if self._observe is not None:
                self._observe(lag)

    def quantile(self, share: float) -> float:
        """The lag in seconds that this share of the recent samples does not exceed; 0 before the first."""
        ordered = sorted(self._samples)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def reset(self) -> None:
        """Forget the samples: what follows is measured alone."""
        self._samples.clear()
