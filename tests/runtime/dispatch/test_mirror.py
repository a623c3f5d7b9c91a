"""Copies for a candidate, and what they show."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.dispatch.mirror import Line, Report, ShadowView, divergence, merge


@pytest.mark.parametrize(("share", "count"), [(1.0, 1000), (0.25, 250), (0.1, 100), (0.0, 0)])
def test_the_share_is_held_exactly(share, count):
    """Every nth request, not one in n by chance."""
    line = Line(share)
    assert sum(line.wants() for _ in range(1000)) == count


def test_copies_wait_for_room_and_the_oldest_goes_first():
    """Bounded in number, in flight and in age; what goes is counted."""
    line = Line(1.0, waiting=4, flying=2, age_s=1.0)
    for number in range(6):
        line.put(number, 0.0)
    assert (len(line), line.dropped) == (4, 2)
    assert line.take(0, 0.0) == []
    assert line.take(-3, 0.0) == []
    assert line.take(5, 0.0) == [2, 3]
    assert line.take(5, 0.0) == []
    line.landed()
    assert line.take(1, 0.5) == [4]
    assert line.take(1, 1.5) == []
    assert (len(line), line.dropped) == (0, 3)


def test_classes_are_compared_row_by_row():
    """Agreement is of the largest score; the difference is of all of them."""
    report = Report("net", 2)
    one = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    other = np.array([[2, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    report.compared(one, other, 0.001, 0.002)
    seen = report.view(3).summary()
    assert (seen["agreement"], seen["rows"], seen["dropped"]) == (0.75, 4, 3)
    assert (seen["primary_p50_us"], seen["shadow_p50_us"]) == (1000, 2000)
    assert seen["drift"] > 0


def test_numbers_are_compared_by_their_relative_difference():
    """Nothing without classes has an agreement; the same answers have no drift."""
    report = Report("net", 2)
    values = np.linspace(1, 2, 32, dtype=np.float32).reshape(-1, 1)
    report.compared(values, values, 0.001, 0.001)
    seen = report.view(0).summary()
    assert (seen["agreement"], seen["difference"], seen["drift"]) == (None, 0.0, 0.0)
    report.compared(values, values * 3, 0.001, 0.001)
    assert report.view(0).summary()["difference"] == pytest.approx(0.5)


def test_other_shapes_and_failures_count_against_the_candidate():
    """A copy that failed is no copy that agreed."""
    report = Report("net", 2)
    report.compared(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), 0.001, 0.001)
    report.failure()
    seen = report.view(0).summary()
    assert (seen["agreement"], seen["copies"], seen["failed"]) == (0.0, 2, 1)


def test_a_report_is_bounded_whatever_comes():
    """Samples in rings, classes up to a count."""
    report = Report("net", 2)
    rng = np.random.default_rng(1)
    for _ in range(2000):
        report.compared(rng.integers(0, 1 << 40, (5, 1)), rng.integers(0, 1 << 40, (5, 1)), 0.001, 0.001)
    view = report.view(0)
    assert len(view.primary_us) <= 512
    assert len(view.primary_classes) <= 4097
    assert sum(view.primary_classes.values()) == 10_000


COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), max_size=4)


@given(COUNTS, COUNTS)
def test_drift_is_between_nothing_and_one_and_the_same_both_ways(one, other):
    """Nothing for the same shares, one for nothing in common."""
    drift, psi = divergence(one, other)
    assert 0 <= drift <= 1
    assert psi >= -1e-9
    assert drift == pytest.approx(divergence(other, one)[0])
    assert divergence(one, {key: 3 * count for key, count in one.items()})[0] == pytest.approx(0, abs=1e-9)


def test_drift_of_nothing_in_common_is_one():
    """The scale's other end."""
    assert divergence({"a": 5}, {"b": 9})[0] == pytest.approx(1.0)


def test_views_of_several_edges_add_up_and_travel():
    """Counts are sums, and the message is read as it was written."""
    views = []
    for scale in (1, 2):
        report = Report("net", 2)
        report.against = 1
        for _ in range(scale):
            report.compared(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 0.001, 0.001)
        views.append(msgspec.convert(msgspec.to_builtins(report.view(1)), ShadowView))
    both = merge(views).summary()
    assert (both["copies"], both["rows"], both["agreement"], both["dropped"], both["against"]) == (3, 9, 1.0, 2, 1)
