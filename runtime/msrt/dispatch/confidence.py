"""How sure a classifier's answer is. Pure.

Confidence is the largest class probability after temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). Fitted at push, the temperature makes it mean what it says: of answers with confidence .8, four in five are
right.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.inference.bundle import LOGITS, PROBABILITIES

__all__ = ["confidence", "kind_of", "log_probabilities"]

TINY: Final = 1e-12


def kind_of(scores: NDArray[Any]) -> str:
    """LOGITS or PROBABILITIES, by the look of (rows, classes)."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    sums = rows.sum(axis=1)
    return PROBABILITIES if (rows >= 0).all() and np.allclose(sums, 1.0, atol=1e-2) else LOGITS


def log_probabilities(scores: NDArray[Any], temperature: float, kind: str = "") -> NDArray[np.float64]:
    """Of (rows, classes), per row and class. `kind`: LOGITS, PROBABILITIES, or empty to look. NaN stays NaN."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    if (kind or kind_of(rows)) == PROBABILITIES:
        rows = np.log(np.maximum(rows, TINY))
    scaled: NDArray[np.float64] = rows / temperature
    with np.errstate(invalid="ignore", over="ignore"):
        scaled -= scaled.max(axis=1, keepdims=True)
        scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def confidence(scores: NDArray[Any], temperature: float, kind: str = "") -> NDArray[np.float64]:
    """Per row of (rows, classes), the largest probability. `kind` as above. A row with a NaN has confidence 0."""
    found: NDArray[np.float64] = np.exp(log_probabilities(scores, temperature, kind).max(axis=1))
    return np.nan_to_num(found, nan=0.0)
