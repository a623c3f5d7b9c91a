from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate
from msrt.learning.aggregate import NormGuard, RunningSum, check
from msrt.learning.compress import SPAN, open_codec
from msrt.learning.compress.codec import BLOCK


@settings(max_examples=30)
@given(
    st.integers(1, 4000) | st.just(SPAN + 3 * BLOCK + 1),
    st.lists(
        st.tuples(st.sampled_from(["fp32", "fp16", "bf16", "int8", "sign", "topk:0.1"]), st.integers(1, 5000)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**31),
)
def test_the_mean_is_the_weighted_mean_of_what_was_sent(size: int, parts: list[tuple[str, int]], seed: int) -> None:
    """Mixed encodings, any weights: equal to the mean computed plainly in float64."""
    rng = np.random.default_rng(seed)
    running, plain = RunningSum(size), np.zeros(size)
    for encoding, weight in parts:
        codec = open_codec(encoding, size)
        payload = codec.encode(rng.standard_normal(size).astype(np.float32))
        running.add(payload, codec, weight)
        plain += codec.decode(payload).astype(np.float64) * weight
    assert running.weight == sum(weight for _, weight in parts)
    assert np.allclose(running.mean(), plain / running.weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "bf16", "int8", "sign", "topk:0.1"])
@pytest.mark.parametrize("size", [5, BLOCK, SPAN + BLOCK + 9])
def test_check_gives_the_norm(encoding: str, size: int) -> None:
    """The norm of a payload is that of the vector it stands for."""
    codec = open_codec(encoding, size)
    payload = codec.encode(np.random.default_rng(1).standard_normal(size).astype(np.float32))
    expected = float(np.linalg.norm(codec.decode(payload).astype(np.float64)))
    assert check(payload, codec) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_check_refuses_what_is_not_finite(bad: float) -> None:
    """NaN, infinity, or numbers whose square is infinite are refused in both encodings."""
    flat = np.ones(3 * BLOCK, np.float32)
    flat[5] = bad
    with pytest.raises(BadUpdate):
        check(flat.tobytes(), open_codec("fp32", flat.size))
    payload = bytearray(open_codec("int8", flat.size).encode(np.ones(3 * BLOCK, np.float32)))
    payload[4:8] = np.float32(bad).tobytes()
    if math.isfinite(bad):
        assert check(bytes(payload), open_codec("int8", flat.size)) > 1e38
    else:
        with pytest.raises(BadUpdate):
            check(bytes(payload), open_codec("int8", flat.size))


def test_a_wrong_size_or_weight_is_refused_before_anything_is_added() -> None:
    """The sum is untouched by what it refuses, and the mean of nothing is an error."""
    running = RunningSum(10)
    for payload, weight in ((b"\0" * 39, 1.0), (b"\0" * 40, 0.0), (b"\0" * 40, math.nan)):
        with pytest.raises(BadUpdate):
            running.add(payload, open_codec("fp32", 10), weight)
    assert running.weight == 0
    with pytest.raises(BadUpdate, match="no updates"):
        running.mean()
    with pytest.raises(BadUpdate, match="expected 40"):
        check(b"\0" * 41, open_codec("fp32", 10))


def test_the_guard_refuses_absurd_norms_and_forgets_them() -> None:
    """Absolute at first, relative to the median once it knows what is usual."""
    guard = NormGuard.for_weights(9.0)
    with pytest.raises(BadUpdate, match="the limit"):
        guard.admit(1001.0)
    with pytest.raises(BadUpdate, match="the limit"):
        guard.admit(math.nan)
    for norm in (1.0, 1.2, 0.9):
        guard.admit(norm)
    for _ in range(100):
        with pytest.raises(BadUpdate, match="usual"):
            guard.admit(50.0)
    guard.admit(20.0)


def test_a_whole_update_is_not_absurd_because_the_others_did_little() -> None:
    """Stragglers sent a hundredth of their work; one that did all of it has come a hundred times as far."""
    guard = NormGuard.for_weights(9.0)
    for _ in range(3):
        guard.admit(0.05, work=0.01)
    guard.admit(5.0)
    with pytest.raises(BadUpdate, match="usual"):
        guard.admit(200.0, work=0.01)


def test_a_clipped_update_counts_in_its_direction_alone() -> None:
    """Its weight in the mean stays; a scale beyond its own length is refused."""
    codec, running = open_codec("fp32", 3), RunningSum(3)
    running.add(codec.encode(np.array([6.0, 0.0, 8.0], np.float32)), codec, 1.0, 0.5)
    running.add(codec.encode(np.array([1.0, 2.0, 0.0], np.float32)), codec, 1.0)
    assert running.mean().tolist() == [2.0, 1.0, 2.0]
    with pytest.raises(BadUpdate, match=r"a scale of 1\.5"):
        running.add(codec.encode(np.ones(3, np.float32)), codec, 1.0, 1.5)
