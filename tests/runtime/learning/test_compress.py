from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate, Corrupt
from msrt.learning.compress import BLOCK, SPAN, ErrorFeedback, decode, encode, payload_size, spans

SIZES = (0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, SPAN, SPAN + BLOCK + 3)


def _vector(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_spans_cover_every_element_once(size: int) -> None:
    """Whatever the size, spans are contiguous and end where the vector ends."""
    at = 0
    for start, rows, width in spans(size):
        assert start == at
        at += rows * width
    assert at == size


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_off_by_half_a_code_at_most(size: int) -> None:
    """Each element comes back within half a step of its block's scale."""
    flat = _vector(size)
    back = decode(encode(flat, "int8"), "int8", size)
    for start in range(0, size, BLOCK):
        block = flat[start : start + BLOCK]
        assert np.abs(back[start : start + BLOCK] - block).max() <= np.abs(block).max() / 127 * 0.5001


def test_fp32_is_exact() -> None:
    """A float32 payload is the vector itself."""
    flat = _vector(1000)
    assert np.array_equal(decode(encode(flat, "fp32"), "fp32", 1000), flat)


def test_int8_is_a_quarter_and_little_more() -> None:
    """A payload of ten thousand parameters is at most 25.2 % of its float32 bytes."""
    assert payload_size("int8", 10_000) / payload_size("fp32", 10_000) <= 0.252


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["fp32", "int8"])
def test_what_is_not_finite_is_not_sent(bad: float, encoding: str) -> None:
    """A diverged update fails at its sender, and leaves the error feedback as it was."""
    flat = _vector(BLOCK * 2)
    feedback = ErrorFeedback(flat.size)
    feedback.encode(flat, "int8")
    before = feedback.residual.copy()
    flat[BLOCK + 3] = bad
    with pytest.raises(BadUpdate, match="not finite"):
        feedback.encode(flat, encoding)
    assert np.array_equal(feedback.residual, before)


def test_zeros_and_the_tiniest_numbers_travel_as_zeros() -> None:
    """A block whose scale would be subnormal is sent as zeros, without a warning."""
    flat = np.array([0.0, 1e-38, -1e-42], np.float32)
    assert not decode(encode(flat, "int8"), "int8", 3).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 12), st.integers(0, 2**31))
def test_error_feedback_loses_nothing_in_the_long_run(size: int, rounds: int, seed: int) -> None:
    """The sum of all that was sent plus the residual is the sum of all that was meant."""
    feedback = ErrorFeedback(size)
    meant, sent = np.zeros(size), np.zeros(size)
    for at in range(rounds):
        flat = _vector(size, seed + at)
        meant += flat
        sent += decode(feedback.encode(flat, "int8"), "int8", size)
    assert np.allclose(sent + feedback.residual, meant, atol=1e-4)


def test_error_feedback_survives_a_restart() -> None:
    """Saved and loaded, it sends the same next payload; broken bytes are refused."""
    one = ErrorFeedback(2000)
    one.encode(_vector(2000), "int8")
    two = ErrorFeedback.load(one.save(), 2000)
    assert one.encode(_vector(2000, 1), "int8") == two.encode(_vector(2000, 1), "int8")
    with pytest.raises(Corrupt):
        ErrorFeedback.load(one.save()[:-1], 2000)
    with pytest.raises(Corrupt):
        ErrorFeedback.load(np.full(2000, np.nan, np.float32).tobytes(), 2000)


def test_a_wrong_length_or_encoding_is_refused() -> None:
    """Payloads of another size or name do not decode."""
    with pytest.raises(BadUpdate, match="bytes for 11 parameters"):
        decode(encode(_vector(10), "int8"), "int8", 11)
    with pytest.raises(BadUpdate, match="unknown encoding"):
        encode(_vector(10), "int4")
