"""The test that judges canaries: its stated error rates hold, however often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.dispatch.sequential import TOLERATED, Compared, Finding, Limits, interval, judge

CANARIES = 2000
LOOKS = 60


def binomial_bound(share, count):
    """More than this many of `count` would be seen once in ten thousand times, were the share true."""
    return count * share + 3.8 * math.sqrt(count * share * (1 - share)) + 1


@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([0.2, 0.05, 0.001]))
def test_an_interval_holds_what_was_seen(hits, misses, error):
    """It lies in [0, 1] around the mean, and narrows as less certainty is asked for."""
    low, high = interval(hits, hits + misses, error)
    wide = interval(hits, hits + misses, error / 10)
    mean = hits / (hits + misses) if hits + misses else 0.5
    assert 0 <= wide[0] <= low <= mean <= high <= wide[1] <= 1


@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.5])
def test_an_interval_holds_the_truth_at_all_times(share):
    """Looked at after every step by thousands: no more than the stated part of them ever misses the truth."""
    rng, error, missed = np.random.default_rng(1), 0.05, 0
    for _ in range(1000):
        hits = np.cumsum(rng.random(LOOKS * 20) < share)[19::20]
        missed += any(
            not low <= share <= high
            for low, high in (interval(int(hit), 20 * (n + 1), error) for n, hit in enumerate(hits))
        )
    assert missed <= binomial_bound(error, 1000)


def story(rng, canary, stable, effects, limits, looks=LOOKS, step=100):
    """What is said first of one canary, whose `canary` shares stand against `stable` ones; OPEN at the end of time."""
    steps = rng.binomial(step, canary, (looks, len(canary))).cumsum(axis=0)
    stables = rng.binomial(4 * step, stable, (looks, len(stable))).cumsum(axis=0)
    for look in range(looks):
        rows = [
            Compared("x", effect, int(bad), step * (look + 1), int(other), 4 * step * (look + 1))
            for effect, bad, other in zip(effects, steps[look], stables[look], strict=True)
        ]
        finding, _ = judge(rows, limits)
        if finding is not Finding.OPEN:
            return finding
    return Finding.OPEN


def outcomes(canary, stable, effects=(0.02, 0.15), limits=None, seed=1, count=CANARIES):
    rng, limits = np.random.default_rng(seed), limits or Limits(0.05, 0.05)
    said = [story(rng, canary, stable, effects, limits) for _ in range(count)]
    return {finding: said.count(finding) for finding in Finding}


@pytest.mark.slow
@pytest.mark.parametrize("stable", [(0.0, 0.05), (0.01, 0.05), (0.1, 0.2)])
def test_a_canary_that_is_no_worse_is_seldom_called_bad(stable):
    """Thousands of them, each looked at sixty times: false rollbacks within the stated rate."""
    count = CANARIES if stable[0] <= 0.01 else CANARIES // 5  # they take longer
    said = outcomes(stable, stable, count=count)
    assert said[Finding.BAD] <= binomial_bound(0.05, count)
    if stable[0] <= 0.01:
        assert said[Finding.GOOD] >= 0.9 * count


@pytest.mark.slow
@pytest.mark.parametrize("worse", [(0.02, 0.0), (0.0, 0.15), (0.04, 0.3)])
def test_a_canary_that_is_worse_by_the_effect_is_seldom_called_good(worse):
    """In errors alone, in slowness alone, or in both: false promotions within the stated rate."""
    stable = (0.01, 0.05)
    canary = tuple(one + more for one, more in zip(stable, worse, strict=True))
    said = outcomes(canary, stable, count=CANARIES // 2)
    assert said[Finding.GOOD] <= binomial_bound(0.05, CANARIES // 2)
    assert said[Finding.BAD] >= 0.9 * (CANARIES // 2)


def test_what_is_tolerated_is_not_called_bad():
    """Worse by the tolerated part of the effect: still within the stated rate."""
    stable, effect = 0.05, 0.15
    said = outcomes((stable + TOLERATED * effect,), (stable,), (effect,))
    assert said[Finding.BAD] <= binomial_bound(0.05, CANARIES)


def test_a_good_canary_without_any_errors_needs_some_hundreds_of_requests():
    """The default limits are of use with the traffic that a small tree has."""
    enough = [
        n for n in range(50, 5000, 50) if judge([Compared("e", 0.02, 0, n, 0, 4 * n)], Limits())[0] is Finding.GOOD
    ]
    assert min(enough) <= 700


def test_a_canary_that_fails_always_is_known_after_a_handful():
    """It need not break many requests to be found out."""
    few = [n for n in range(1, 100) if judge([Compared("e", 0.02, n, n, 0, 400)], Limits())[0] is Finding.BAD]
    assert min(few) <= 12


def test_without_traffic_nothing_is_said():
    """No requests on either side, or on one: open."""
    for one in (Compared("e", 0.02, 0, 0), Compared("e", 0.02, 5, 10), Compared("e", 0.02, 0, 0, 3, 1000)):
        assert judge([one], Limits())[0] is Finding.OPEN
    assert judge([], Limits())[0] is Finding.OPEN


def test_a_share_without_a_stable_side_is_held_against_the_effect_itself():
    """Copies that differ have nothing to be compared with."""
    assert judge([Compared("d", 0.2, 40, 100, absolute=True)], Limits())[0] is Finding.BAD
    assert judge([Compared("d", 0.2, 1, 100, absolute=True)], Limits())[0] is Finding.GOOD
    assert judge([Compared("d", 0.2, 12, 100, absolute=True)], Limits())[0] is Finding.OPEN


def test_it_says_what_it_saw():
    """The sentence names shares and counts on both sides."""
    _, (one,) = judge([Compared("errors", 0.02, 5, 50, 1, 100)], Limits())
    assert one.sentence() == "errors 10.00% of 50, the stable version 1.00% of 100"
