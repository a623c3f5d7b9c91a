"""Chunks and deltas: what two versions share is cut alike, and only the rest is fetched."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.artifacts import chunks
from msrt.artifacts.delta import known_chunks, plan
from msrt.errors import InvalidImage


def reader(data):
    return lambda offset, size: data[offset : offset + size]


def index(data):
    return chunks.index_of(reader(data), len(data))


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def plainly_cut(data):
    """The same by the recurrence of the paper, a byte at a time."""
    gear, ends, start = chunks._GEAR.tolist(), [], 0
    while start < len(data):
        end = min(start + chunks.MOST, len(data))
        hashed = 0
        for at in range(max(0, start + chunks.LEAST - chunks.WINDOW), end):
            hashed = ((hashed << 1) + gear[data[at]]) & 0xFFFFFFFF
            length = at + 1 - start
            mask = chunks.HARD if length < chunks.NORMAL else chunks.EASY
            if length >= chunks.LEAST and not hashed & int(mask):
                end = at + 1
                break
        ends.append(end)
        start = end
    return ends


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 100_000, 600_000])
def test_cuts_are_those_of_the_plain_recurrence(size):
    """The vectorised hash is the gear hash; blocks leave no trace."""
    data = noise(size)
    assert chunks.cuts(reader(data), size) == plainly_cut(data)


def test_sizes_keep_to_their_bounds():
    """None but the last is below the least, none above the most, and the mean is near the normal size."""
    data = noise(3 << 20)
    sizes = [size for _, size, _ in index(data).chunks()]
    assert min(sizes[:-1]) >= chunks.LEAST
    assert max(sizes) <= chunks.MOST
    assert 0.8 < sum(sizes) / len(sizes) / chunks.NORMAL < 1.5


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(0, 300_000), st.binary(max_size=200), st.integers(0, 200), st.data())
def test_a_plan_makes_the_new_version_of_the_old_one(seed, at, put_in, taken_out, data):
    """Whatever was put in or taken out, wherever an earlier try ended: it gives the new bytes, and few are fetched."""
    old = noise(300_000, seed)
    new = old[:at] + put_in + old[at + taken_out :]
    have = data.draw(st.integers(0, len(new)))
    pieces = plan(index(new), have, known_chunks(reader(old), len(old)))
    made = b"".join(
        new[p.offset : p.offset + p.size] if p.seed is None else p.seed.read(p.seed.offset, p.size) for p in pieces
    )
    assert made == new[have:]
    assert sum(p.size for p in pieces if p.seed is None) <= 4 * chunks.MOST


def test_an_index_is_read_back():
    """Sizes and names as they were."""
    made = index(noise(100_000))
    assert chunks.unpack_index(chunks.pack_index(made)) == made


@pytest.mark.parametrize("change", [{"size": 5}, {"names": b""}, {"sizes": b"123"}])
def test_an_index_that_contradicts_itself_is_refused(change):
    """It comes from a peer."""
    made = index(noise(10_000))
    bad = {"size": made.size, "sizes": made.sizes, "names": made.names, **change}
    with pytest.raises(InvalidImage):
        chunks.unpack_index(chunks.pack_index(chunks.Index(**bad)))
    with pytest.raises(InvalidImage):
        chunks.unpack_index(b"\xc1")
