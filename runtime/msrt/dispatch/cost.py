"""What a batch costs a worker, learnt from its answers: seconds = fixed + per_row * rows.

Exponentially weighted least squares over the batches that came back. What it says decides how large a batch pays
(`best_rows`) and how long the work ahead of a request will take (`expected`).
"""

from __future__ import annotations

import math

__all__ = ["BatchCost"]

KEEP = 0.96
"""Weight of the past at each new batch: about the last 25 count."""
SPREAD = 0.02
"""Relative variance of batch sizes below which a slope would be noise."""
WORTH = 0.1
"""A larger batch is worth waiting for while the fixed cost per row is above this share of a row's own."""


SURE = 2.0
"""Standard errors by which a fixed cost has to stand out."""
GROWTH = 8
"""A batch may be so many times larger than the largest that came back: what a larger one costs is not known yet."""


class BatchCost:
    """Of one model version on one worker. With a hint (seconds for one row) until the first answer; 0: unknown."""

    __slots__ = (
        "_rows", "_rows2", "_rows_seconds", "_seconds", "_seconds2", "_weight", "fixed", "known", "per_row", "unsure",
        "widest",
    )  # fmt: skip

    def __init__(self, hint: float = 0.0) -> None:
        self.fixed, self.per_row = hint, 0.0
        self.known = False
        self.unsure = 0.0
        """Standard error of `fixed`: what of it may be noise."""
        self.widest = 1
        """Rows of the largest batch that came back."""
        self._weight = self._rows = self._seconds = self._rows2 = self._rows_seconds = self._seconds2 = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        self.widest = max(self.widest, rows)
        self._weight = self._weight * KEEP + 1.0
        self._rows = self._rows * KEEP + rows
        self._seconds = self._seconds * KEEP + seconds
        self._rows2 = self._rows2 * KEEP + rows * rows
        self._rows_seconds = self._rows_seconds * KEEP + rows * seconds
        self._seconds2 = self._seconds2 * KEEP + seconds * seconds
        mean_rows, mean = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows2 / self._weight - mean_rows * mean_rows
        if variance > SPREAD * mean_rows * mean_rows:
            slope = (self._rows_seconds / self._weight - mean_rows * mean) / variance
            self.per_row = min(max(slope, 0.0), mean / mean_rows)
            self.fixed = mean - self.per_row * mean_rows
            left = max(self._seconds2 / self._weight - mean * mean - slope * slope * variance, 0.0)
            self.unsure = math.sqrt(left / self._weight * (1 + mean_rows * mean_rows / variance))
        else:  # one size only: keep the shape, move the level
            before = self.fixed + self.per_row * mean_rows
            if self.known and before > 0:
                self.fixed *= mean / before
                self.per_row *= mean / before
            else:
                self.fixed, self.per_row = mean, 0.0
        self.known = True

    def expected(self, rows: int) -> float:
        """Seconds that a batch of so many rows takes."""
        return self.fixed + self.per_row * rows

    def best_rows(self, most: int, way: float = 0.0) -> int:
        """Rows beyond which joining more saves little and only makes the first wait: between 1 and `most`. `way`:
        seconds that a batch costs beside the work itself. A fixed cost that may be noise does not count."""
        most = min(most, GROWTH * self.widest)
        if self.per_row <= 0:
            return most
        return max(1, min(most, math.ceil((max(self.fixed - SURE * self.unsure, 0.0) + way) / (WORTH * self.per_row))))
