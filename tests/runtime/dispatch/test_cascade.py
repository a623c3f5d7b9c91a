"""Whether a small model is sure, and what may go up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from msrt.dispatch.cascade import Threshold, Upper
from msrt.dispatch.confidence import confidence
from msrt.dispatch.policy import ModelPolicy

SCORES = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.floats(-50, 50, width=32))


@given(SCORES, st.floats(0.1, 10))
def test_confidence_is_the_largest_softmax_probability(scores, temperature):
    """Of logits divided by the temperature, per row."""
    scaled = scores.astype(np.float64) / temperature
    wanted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    wanted = (wanted / wanted.sum(axis=1, keepdims=True)).max(axis=1)
    assert np.allclose(confidence(scores, temperature, "logits"), wanted, rtol=1e-6)


@given(SCORES)
def test_probabilities_at_temperature_one_are_their_own_confidence(scores):
    """Also where nobody said that they are probabilities; a higher temperature is less sure."""
    exp = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    shares = (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
    for kind in ("probabilities", ""):
        assert np.allclose(confidence(shares, 1.0, kind), shares.max(axis=1), atol=1e-4)
    assert (confidence(shares, 3.0, "probabilities") <= shares.max(axis=1) + 1e-6).all()


def test_a_row_with_nan_has_no_confidence():
    """It goes up before any other."""
    assert confidence(np.array([[np.nan, 1.0], [9.0, 0.0]], np.float32), 1.0, "logits").tolist()[0] == 0.0


def test_a_fixed_threshold_sends_what_is_below_it():
    """The rows are named, and nobody else goes."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_below=0.6, escalate_budget=1.0))
    assert threshold.choose([0.9, 0.5, 0.59, 0.6]) == ([1, 2], 0)


def test_the_budget_bounds_what_goes_up_whatever_the_threshold():
    """Over any stretch: the share of the rows and a small burst; the most uncertain row goes where not all may."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_below=1.0, escalate_budget=0.1))
    for _ in range(1000):
        threshold.choose([0.5])
    assert 100 <= threshold.escalated <= 110
    assert threshold.unbudgeted == 1000 - threshold.escalated
    poor = Threshold(ModelPolicy(escalate_to="big", escalate_below=1.0, escalate_budget=0.01))
    assert poor.choose([0.9] * 20 + [0.1] + [0.8] * 20)[0].count(20) == 1


def test_no_budget_sends_nothing():
    """0 % means 0 rows, from the first on."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_below=0.9, escalate_budget=0.0))
    assert threshold.choose([0.1] * 50) == ([], 50)


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.5])
def test_the_threshold_adapts_to_use_the_budget(budget):
    """Whatever confidences come, about that share goes up; also after they shift."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_budget=budget))
    rng = np.random.default_rng(1)
    for low in (0.0, 0.6):
        before = threshold.escalated
        for _ in range(4000):
            threshold.choose([float(low + (1 - low) * rng.random())])
        assert threshold.escalated - before == pytest.approx(4000 * budget, rel=0.2)


def test_the_threshold_adapts_to_hold_an_accuracy():
    """The mean confidence of what is answered here is what was asked for, with no more rows up than that takes."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_budget=1.0, escalate_accuracy=0.9))
    rng = np.random.default_rng(2)
    kept, seen = [], 0
    for number in range(6000):
        value = float(0.5 + 0.5 * rng.random())  # mean .75; above .8 the mean is .9
        rows, _ = threshold.choose([value])
        if number >= 2000:
            seen += 1
            if not rows:
                kept.append(value)
    assert np.mean(kept) == pytest.approx(0.9, abs=0.01)
    assert len(kept) / seen == pytest.approx(0.4, abs=0.05)


def test_accuracy_that_is_there_already_costs_nothing():
    """All are sure enough together: none goes up."""
    threshold = Threshold(ModelPolicy(escalate_to="big", escalate_budget=1.0, escalate_accuracy=0.9))
    for _ in range(100):
        threshold.choose([0.95])
    assert threshold.escalated == 0


def test_who_failed_is_left_alone_for_a_while_and_longer_each_time():
    """And at once trusted again after it answered."""
    upper = Upper()
    assert not upper.resting(0.0)
    upper.failed(0.0)
    assert upper.resting(0.4)
    assert not upper.resting(0.6)
    upper.failed(1.0)
    assert upper.resting(1.9)
    for _ in range(20):
        upper.failed(10.0)
    assert not upper.resting(18.1)
    upper.failed(20.0)
    upper.answered(0.01)
    assert not upper.resting(20.0)


def test_waiting_follows_what_it_usually_takes_and_leaves_time_to_answer():
    """Before the first answer a second; never more than most of what the caller has left."""
    upper = Upper()
    assert upper.patience(10.0) == 1.0
    assert upper.patience(0.1) == pytest.approx(0.08)
    for _ in range(50):
        upper.answered(0.05)
    assert upper.patience(10.0) == pytest.approx(0.4)
