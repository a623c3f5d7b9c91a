"""Who takes what."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from msrt.training.cluster.shares import bounds, mine

small = st.integers(1, 9)


@given(st.integers(0, 100), small)
def test_bounds_cover_everything_evenly(length, parts):
    """Runs follow each other from 0 to the end, and differ by one at most."""
    runs = bounds(length, parts)
    assert (runs[0][0], runs[-1][1], len(runs)) == (0, length, parts)
    assert all(before[1] == after[0] for before, after in pairwise(runs))
    sizes = [high - low for low, high in runs]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 100), small, small)
def test_every_sample_is_taken_once(length, world, micro):
    """Whatever the numbers of ranks and of micro-batches, which are the same on every rank."""
    taken = [mine(length, rank, world, micro) for rank in range(world)]
    assert {len(parts) for parts in taken} == {micro}
    assert [at for parts in taken for low, high in parts for at in range(low, high)] == list(range(length))
