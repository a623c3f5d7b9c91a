"""The temperature that makes a classifier's probabilities mean what they say, and how far they are from that. Pure.

Temperature scaling and the expected calibration error as in Guo et al. 2017, "On Calibration of Modern Neural
Networks": one number divides the logits so that the likelihood of the labels is largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.dispatch.confidence import confidence, kind_of, log_probabilities

__all__ = ["Calibration", "calibrate", "expected_calibration_error"]

Array = NDArray[Any]

BINS: Final = 15
"""Of equal width, as in the paper."""
LEAST: Final = 50
"""Labelled samples below which one number would be guessed, not fitted."""
COLDEST: Final = 0.05
HOTTEST: Final = 20.0
STEPS: Final = 60
"""Of the golden section: the interval shrinks by .618 each."""


@dataclass(frozen=True)
class Calibration:
    """`scores`: LOGITS or PROBABILITIES. `before` and `after`: the expected calibration error, of temperature 1 and out
    of fold."""

    scores: str
    temperature: float
    before: float
    after: float


def expected_calibration_error(sure: Array, right: Array) -> float:
    """Mean distance of confidence from accuracy, over BINS of confidence weighted by their samples."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    distance = np.bincount(bins, weights=sure - right, minlength=BINS)
    return float(np.abs(distance).sum() / len(sure))


def calibrate(scores: Array, labels: Array) -> Calibration | str:
    """Fit the temperature to (samples, classes) and their labels; text says why that cannot be done.

    The error afterwards is measured on each half of the samples with the temperature of the other. Where that makes the
    labels no likelier than the scores as they are, these are left alone: temperature 1.
    """
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return "the first output scores no classes"
    if len(scores) < LEAST:
        return f"{len(scores)} labelled samples are too few, {LEAST} are needed"
    if labels.min() < 0 or labels.max() >= scores.shape[1] or not np.isfinite(scores).all():
        return "labels or scores are out of range"
    right = scores.argmax(axis=1) == labels
    kind = kind_of(scores)
    halves = np.arange(len(scores)) % 2 == 0
    if right[halves].all() or right[~halves].all():
        return "hardly an answer is wrong: nothing says how sure is too sure"
    before = expected_calibration_error(confidence(scores, 1.0, kind), right)
    after = gain = 0.0
    for fold in (halves, ~halves):
        temperature = _fitted(scores[~fold], labels[~fold], kind)
        error = expected_calibration_error(confidence(scores[fold], temperature, kind), right[fold])
        after += error * float(fold.mean())
        gain += _loss(scores[fold], labels[fold], kind, 1.0) - _loss(scores[fold], labels[fold], kind, temperature)
    if gain <= 0:
        return Calibration(kind, 1.0, before, before)
    return Calibration(kind, _fitted(scores, labels, kind), before, after)


def _loss(scores: Array, labels: Array, kind: str, temperature: float) -> float:
    """Mean negative logarithm of the labels' probabilities."""
    return -float(log_probabilities(scores, temperature, kind)[np.arange(len(scores)), labels].mean())


def _fitted(scores: Array, labels: Array, kind: str) -> float:
    """By golden section over its logarithm: the likelihood has one maximum there."""

    def loss(log_temperature: float) -> float:
        return _loss(scores, labels, kind, math.exp(log_temperature))

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(COLDEST), math.log(HOTTEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)
