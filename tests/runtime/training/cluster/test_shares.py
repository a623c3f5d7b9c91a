"""Who takes what."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.training.cluster.shares import bounds, column_row_pairs, cut, equal_parts, largest, mine

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


@given(st.integers(1, 200), small)
def test_micro_batches_of_a_pipeline_are_equal(length, least):
    """As few as may be, at least so many, or of one sample each."""
    parts = equal_parts(length, least)
    assert length % parts == 0
    assert parts >= min(least, length)
    assert not any(length % fewer == 0 for fewer in range(least, parts))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.data())
def test_a_model_is_cut_where_the_largest_stage_is_smallest(sizes, data):
    """No other cut into so many runs has a smaller one."""
    parts = data.draw(st.integers(1, len(sizes)))
    stages = cut(sizes, parts)
    assert [at for low, high in stages for at in range(low, high)] == list(range(len(sizes)))
    assert all(high > low for low, high in stages)
    largest_stage = max(sum(sizes[low:high]) for low, high in stages)
    for borders in combinations(range(1, len(sizes)), parts - 1):
        edges = [0, *borders, len(sizes)]
        assert max(sum(sizes[low:high]) for low, high in pairwise(edges)) >= largest_stage


def test_more_stages_than_layers_are_refused():
    """With both numbers."""
    with pytest.raises(ValueError, match="2 layers cannot be cut into 3 stages"):
        cut([1, 1], 3)


def test_layers_that_belong_together_are_found():
    """By their names under one parent, and in a sequence with an activation between; not where a norm is between, nor
    where the features do not divide.
    """
    linears = {
        "a.up": (8, 32),
        "a.down": (32, 8),
        "a.out": (8, 8),
        "s.0": (8, 6),
        "s.2": (6, 4),
        "t.0": (8, 6),
        "t.2": (6, 4),
    }
    sequences = [
        [("s.0", False), ("s.1", True), ("s.2", False)],
        [("t.0", False), ("t.1", False), ("t.2", False)],
    ]
    plan = {"a.up": "column", "a.down": "row", "s.0": "column", "s.2": "row"}
    assert column_row_pairs(linears, sequences, 2) == plan
    assert column_row_pairs(linears, sequences, 4) == {"a.up": "column", "a.down": "row"}
    assert column_row_pairs(linears, sequences, 5) == {}


@given(st.integers(0, 10_000), st.integers(1, 5_000))
def test_the_largest_batch_is_found_within_an_eighth(memory, bound):
    """In a few trials, and never one that does not fit."""
    tried = []

    def fits(size):
        tried.append(size)
        return size <= memory

    found = largest(fits, bound)
    best = min(memory, bound)
    assert found <= best <= found + max(1, found // 8)
    assert len(tried) < 20
