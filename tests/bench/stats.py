"""What is said of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """Milliseconds."""
    return float(np.percentile(seconds, percent)) * 1000 if len(seconds) else float("nan")


def median_ratio(pairs: Sequence[tuple[float, float]], draws: int = 2000) -> tuple[float, float, float]:
    """Median of first over second of A/B pairs, and its 95 % interval by bootstrap."""
    ratios = np.array([one / other for one, other in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)
