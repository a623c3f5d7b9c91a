"""Fixed point and the arena."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.inference.micro.fixed import fixed, requantise
from msrt.inference.micro.plan import Life, plan


@settings(max_examples=40)
@given(st.floats(2.0**-31, 2.0**20))
def test_a_factor_is_kept_to_thirty_bits(factor):
    """As a 31-bit multiplier and a shift."""
    multiplier, shift = fixed(factor)
    assert 0 < multiplier < 2**31
    assert 1 <= shift <= 62
    assert abs(multiplier / 2.0**shift - factor) <= factor * 2.0**-30


@settings(max_examples=40)
@given(st.integers(-(2**24), 2**24), st.floats(2.0**-16, 4.0), st.integers(-128, 127))
def test_requantising_rounds_once(total, factor, zero):
    """To the nearest, half a step off at most."""
    multiplier, shift = fixed(factor)
    found = (
        int(requantise(np.int64(total) * np.asarray(multiplier, np.int64), shift, zero, -(2**31), 2**31)[()])
        if (-120 < total * factor + zero < 120)
        else None
    )
    if found is not None:
        assert abs(found - (total * factor + zero)) <= 0.5 + 1e-3


lives = st.lists(
    st.builds(
        lambda size, first, length: Life(size, first, first + length),
        st.integers(1, 500), st.integers(0, 12), st.integers(0, 5),
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=40)
@given(lives)
def test_tensors_that_live_together_do_not_overlap(found):
    """And the arena ends where the last of them does."""
    places, arena = plan(dict(enumerate(found)))
    for a, one in enumerate(found):
        assert places[a] % 4 == 0
        assert places[a] + one.size <= arena
        for b, other in enumerate(found[:a]):
            if one.first <= other.last and other.first <= one.last:
                assert places[a] + one.size <= places[b] or places[b] + other.size <= places[a]
    if found:
        assert arena <= sum(-(-life.size // 4) * 4 for life in found)
