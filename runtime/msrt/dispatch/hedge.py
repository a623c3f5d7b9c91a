"""When a second worker is asked: once a batch takes longer than a learnt percentile of what was expected of it.

What is learnt is the ratio of the time that a batch took to the time that was expected when it left, so that large
batches and slow workers do not look late. "The Tail at Scale" (Dean and Barroso, 2013); the estimate of a quantile by
steps is Robbins and Monro's, in logarithms.
"""

from __future__ import annotations

import math

__all__ = ["Lateness"]

STEP = 0.1
FIRST = 3.0
LOWEST, HIGHEST = 1.1, 50.0
LEARNING = 50
"""Batches before it is believed."""


class Lateness:
    """A quantile of (seconds taken / seconds expected)."""

    __slots__ = ("_down", "_log", "_up", "seen")

    def __init__(self, quantile: float = 0.95) -> None:
        self._log = math.log(FIRST)
        self._up, self._down = STEP * quantile, STEP * (1 - quantile)
        self.seen = 0

    def add(self, taken: float, expected: float) -> None:
        self.seen += 1
        if expected <= 0:
            return
        if taken > expected * math.exp(self._log):
            self._log = min(self._log + self._up, math.log(HIGHEST))
        else:
            self._log = max(self._log - self._down, math.log(LOWEST))

    @property
    def ratio(self) -> float:
        return math.exp(self._log)

    @property
    def known(self) -> bool:
        return self.seen >= LEARNING
