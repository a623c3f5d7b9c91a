"""Drift is seen where there is some, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from msrt.inference.drift import ELEMENTS, LEAST, Window, features, reference_of


def rows(count, seed, size=8, shift=0.0, scale=1.0):
    """Readings of a sensor with `size` channels."""
    return np.random.default_rng(seed).normal(shift, scale, size=(count, size)).astype(np.float32)


def drift(reference, readings):
    window = Window(reference)
    for reading in readings:
        window.add(reading)
    return window.drift()


@pytest.mark.parametrize("seed", range(10))
def test_readings_of_the_same_kind_do_not_drift(seed):
    """What chance alone gives stays below the least limit that is of use."""
    assert drift(reference_of(rows(200, seed)), rows(500, seed + 100))[0] < 0.2


@pytest.mark.parametrize(("shift", "scale"), [(0.6, 1.0), (-0.6, 1.0), (0.0, 2.0), (0.0, 0.4)])
def test_readings_of_another_kind_drift(shift, scale):
    """Moved, spread or narrowed."""
    assert drift(reference_of(rows(200, 1)), rows(500, 2, shift=shift, scale=scale))[0] > 0.25


def test_one_channel_is_enough_and_is_named():
    """A single broken sensor of many."""
    broken = rows(500, 2)
    broken[:, 5] += 3.0
    value, name = drift(reference_of(rows(200, 1)), broken)
    assert value > 1.0
    assert name == "element 5 of 8"


@pytest.mark.parametrize("moved", [0.1, -0.1])
def test_a_channel_that_never_moved_drifts_when_it_does(moved):
    """To either side; and while it stands still there is no drift."""
    known = rows(200, 1)
    known[:, 0] = 0.0
    fresh = rows(500, 2)
    fresh[:, 0] = 0.0
    assert drift(reference_of(known), fresh)[0] < 0.2
    fresh[:, 0] = moved
    assert drift(reference_of(known), fresh)[1] == "element 0 of 8"


def test_large_readings_cost_no_more():
    """An image is its mean, its deviation and some of its elements."""
    assert len(features(np.zeros((3, 96, 96)))) == ELEMENTS + 2
    reference = reference_of(rows(100, 1, size=5000))
    assert len(reference.edges) + len(reference.counts) < 4096


def test_without_enough_data_there_is_nothing_to_compare_with():
    """Too few, none, or no numbers."""
    assert reference_of(rows(LEAST - 1, 1)) is None
    assert reference_of([]) is None
    assert reference_of([["a", "b"]] * 100) is None
    assert reference_of([[float("nan")]] * 100) is None


def test_what_is_no_such_reading_is_not_counted():
    """Of another shape, or NaN; an empty window says nothing."""
    window = Window(reference_of(rows(100, 1)))
    window.add(np.zeros(3))
    window.add([float("nan")] * 8)
    assert window.readings == 0
    assert window.drift() == (0.0, "")
