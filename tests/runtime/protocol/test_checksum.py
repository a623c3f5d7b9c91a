"""A quick checksum finds what machines do to bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.protocol.checksum import SPAN, Running, quick

DATA = bytes(range(251)) * (3 * SPAN // 251) + b"a tail"


@given(st.binary(min_size=1, max_size=200), st.data())
def test_each_bit_counts(data, draw):
    """One that flips is another checksum."""
    at, bit = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 7))
    other = bytearray(data)
    other[at] ^= 1 << bit
    assert quick(other) != quick(data)


def test_spans_in_another_order_are_others():
    """A sum alone would not see it."""
    assert quick(DATA[SPAN : 2 * SPAN] + DATA[:SPAN]) != quick(DATA[: 2 * SPAN])


@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * 8, b"\0" * 9, b"\0" * SPAN, b"\0" * (SPAN + 1)])
def test_zeros_count(data):
    """Their number does."""
    assert quick(data) != quick(data + b"\0")


def test_fed_span_by_span_is_the_same():
    """Where they lie one by one."""
    running = Running()
    for at in range(0, len(DATA), SPAN):
        running.add(memoryview(DATA)[at : at + SPAN])
    assert running.text() == quick(DATA) == "ac7a542461999649"
