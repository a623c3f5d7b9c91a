"""Ranges of a vector and who has them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from msrt.learning.parameter_server.shards import ALIGN, place, spans

SERVERS = st.sets(st.sampled_from([f"edge-{at}" for at in range(6)]), min_size=1)


@given(st.integers(1, 10**7), st.integers(1, 64))
def test_spans_cover_the_vector_once_and_evenly(size, count):
    """Contiguous, none empty, equal but for one unit, whole blocks where there are enough."""
    cut = spans(size, count)
    assert cut[0].start == 0
    assert cut[-1].stop == size
    assert all(left.stop == right.start for left, right in pairwise(cut))
    assert min(span.size for span in cut) > 0
    unit = ALIGN if size >= ALIGN * len(cut) else 1
    assert max(span.size for span in cut) - min(span.size for span in cut) < 2 * unit
    assert all(span.start % unit == 0 for span in cut)


@given(SERVERS, SERVERS, st.integers(1, 24))
def test_shards_are_balanced_and_move_only_where_they_must(before, after, count):
    """Loads differ by one at most; who stays keeps as many of its shards as its share is."""
    old = place((), before, count)
    new = place(old, after, count)
    load = Counter(new)
    assert set(load) <= after
    assert max(load.values()) - min((load[name] for name in after), default=0) <= 1
    stay = Counter(owner for owner, other in zip(old, new, strict=True) if owner == other)
    for name in before & after:
        assert stay[name] == min(Counter(old)[name], load[name])
    assert new == place(old, sorted(after, reverse=True), count)


def test_nothing_moves_while_no_server_is_here():
    """They wait for one."""
    assert place(("a", "b"), (), 2) == ("a", "b")
