"""Temperatures found again in labels that were drawn by them."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.inference.bundle import LOGITS, PROBABILITIES
from msrt_cloud.calibration import Calibration, calibrate, expected_calibration_error


def drawn(temperature, count=4000, classes=5):
    """Logits, and labels that are right as often as the logits divided by the temperature say."""
    generator = np.random.default_rng(7)
    logits = generator.normal(0, 3, (count, classes)).astype(np.float32)
    scaled = np.exp(logits / temperature)
    chances = scaled / scaled.sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > generator.random((count, 1))).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found(temperature):
    """Within a tenth, from logits; afterwards the probabilities mean what they say."""
    found = calibrate(*drawn(temperature))
    assert isinstance(found, Calibration)
    assert found.scores == LOGITS
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.after < 0.03
    assert temperature == 1.0 or found.before > 2 * found.after


def test_probabilities_are_scaled_by_their_logarithms():
    """A model that ends in softmax is as well fitted as one that does not."""
    logits, labels = drawn(2.0)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = calibrate(scores, labels)
    assert isinstance(found, Calibration)
    assert (found.scores, found.temperature) == (PROBABILITIES, pytest.approx(2.0, rel=0.1))


def test_what_does_not_help_is_left_alone():
    """Labels that have nothing to do with the sure and the unsure: no temperature is better than the one they have."""
    logits, labels = drawn(1.0, count=60)
    found = calibrate(logits, labels)
    assert isinstance(found, Calibration)
    assert (found.temperature, found.after) == (1.0, found.before)


def test_the_error_is_the_distance_of_confidence_from_accuracy():
    """Sure by .9 and right half of the time: .4 off; right nine times of ten: not at all."""
    sure = np.full(100, 0.9)
    assert expected_calibration_error(sure, np.arange(100) % 2 == 0) == pytest.approx(0.4)
    assert expected_calibration_error(sure, np.arange(100) % 10 != 0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("scores", "labels", "why"),
    [
        (np.zeros((100, 1), np.float32), np.zeros(100, int), "no classes"),
        (np.eye(3, dtype=np.float32)[[0, 1, 2]], np.arange(3), "too few"),
        (np.zeros((100, 3), np.float32), np.full(100, 3), "out of range"),
        (np.full((100, 3), np.nan, np.float32), np.zeros(100, int), "out of range"),
        (np.eye(4, dtype=np.float32)[np.arange(100) % 4], np.arange(100) % 4, "hardly an answer is wrong"),
    ],
)
def test_what_cannot_be_fitted_is_said(scores, labels, why):
    """Nothing is made up."""
    assert why in calibrate(scores, labels)
