"""Answers that are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msrt.dispatch.cache import ENTRY_COST, Cache, key_of
from msrt.protocol.messages import TensorSpec

X = TensorSpec("x", "FP32", (1, 4))


def test_what_was_kept_is_found_until_it_is_too_old():
    """By its key alone, and not a moment longer than its age."""
    cache = Cache(1 << 16, 10.0)
    cache.put(b"k", "answer", 100, 0.0)
    assert (cache.get(b"k", 10.0), cache.get(b"other", 10.0)) == ("answer", None)
    assert cache.get(b"k", 10.1) is None
    assert (len(cache), cache.bytes, cache.hits, cache.misses) == (0, 0, 1, 2)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5000)), max_size=60))
def test_its_bytes_are_bounded_whatever_is_kept(puts):
    """The least recently used leaves; one that is larger than a quarter of all is not kept; the count is right."""
    cache = Cache(12_000, 10.0)
    for number, (key, size) in enumerate(puts):
        kept = cache.put(b"%d" % key, size, size, float(number) / 100)
        assert kept == (size + ENTRY_COST <= 3000)
        if kept:
            assert cache.get(b"%d" % key, float(number) / 100) == size
        assert cache.bytes <= 12_000
    assert cache.bytes == sum(size for _, size, _ in cache._entries.values())
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_leaves_first():
    """Being asked for keeps an answer."""
    cache = Cache(8 * (ENTRY_COST + 100), 10.0)
    for number in range(8):
        cache.put(b"%d" % number, number, 100, 0.0)
    cache.get(b"0", 1.0)
    cache.put(b"new", 9, 100, 1.0)
    assert (cache.get(b"0", 1.0), cache.get(b"1", 1.0)) == (0, None)


def test_a_key_is_of_version_names_types_shapes_bytes_and_outputs():
    """Any of them differs: another question. The order of the inputs is none."""
    base = key_of(1, (X,), (bytes(16),))
    others = [
        key_of(2, (X,), (bytes(16),)),
        key_of(1, (TensorSpec("y", "FP32", (1, 4)),), (bytes(16),)),
        key_of(1, (TensorSpec("x", "INT32", (1, 4)),), (bytes(16),)),
        key_of(1, (TensorSpec("x", "FP32", (4, 1)),), (bytes(16),)),
        key_of(1, (X,), (bytes(15) + b"\1",)),
        key_of(1, (X,), (bytes(16),), ("y",)),
    ]
    assert len({base, *others}) == 7
    y = TensorSpec("y", "FP32", (1, 4))
    assert key_of(1, (X, y), (b"a" * 16, b"b" * 16)) == key_of(1, (y, X), (b"b" * 16, b"a" * 16))
    assert key_of(1, (X,), (bytearray(16),)) == key_of(1, (X,), (memoryview(bytes(16)),)) == base


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 40))
def test_two_questions_never_run_into_each_other(one, other, cut):
    """Bytes that move from one input to the next make another key."""
    a, b = TensorSpec("a", "BYTES", (1,)), TensorSpec("b", "BYTES", (1,))
    whole = one + other
    same = (whole[:cut], whole[cut:]) == (one, other)
    assert (key_of(1, (a, b), (one, other)) == key_of(1, (a, b), (whole[:cut], whole[cut:]))) == same
