from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate
from msrt.learning.aggregate import NormGuard, RunningSum, check, scale_down
from msrt.learning.compress import open_codec
from msrt.learning.noise import BLOCK, GRID, KEY, add_noise

SIZE = 2 * BLOCK + 7
KEYS = [bytes([number]) * KEY for number in range(4)]


@pytest.mark.parametrize("deviation", [1e-6, 0.03, 1.0, 250.0])
def test_noise_has_the_deviation_that_was_asked_for(deviation: float) -> None:
    """Mean 0, the deviation, and the tails of a Gaussian: 131,000 draws of each."""
    noise = add_noise(np.zeros(SIZE, np.float32), deviation, KEYS[0]).astype(np.float64) / deviation
    assert noise.mean() == pytest.approx(0.0, abs=5 / math.sqrt(SIZE))
    assert noise.std() == pytest.approx(1.0, rel=5 / math.sqrt(2 * SIZE))
    for bound, share in ((1.0, 0.31731), (2.0, 0.04550), (3.0, 0.002700)):
        assert np.mean(np.abs(noise) > bound) == pytest.approx(share, abs=5 * math.sqrt(share / SIZE))


def test_draws_are_independent() -> None:
    """Of one another within a vector, of those of the next block, and of another key's."""
    one, other = (add_noise(np.zeros(SIZE, np.float32), 1.0, key).astype(np.float64) for key in KEYS[:2])
    for left, right in ((one[:-1], one[1:]), (one[:BLOCK], one[BLOCK : 2 * BLOCK]), (one, other),
                        (one[: BLOCK // 2], one[BLOCK // 2 : BLOCK])):  # fmt: skip
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / math.sqrt(left.size)


def test_a_key_gives_its_noise_again_and_another_key_another() -> None:
    """A simulation replays; a key is used once."""
    flat = np.ones(100, np.float32)
    assert np.array_equal(add_noise(flat, 1.0, KEYS[0]), add_noise(flat, 1.0, KEYS[0]))
    assert not np.array_equal(add_noise(flat, 1.0, KEYS[0]), add_noise(flat, 1.0, KEYS[1]))


def test_the_digits_that_tell_are_dropped() -> None:
    """All numbers lie on one grid, whatever was below them: it is far finer than the noise."""
    deviation = 0.5
    grid = 2.0 ** round(math.log2(deviation * GRID))
    flat = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * np.float32(1e-3)
    noisy = add_noise(flat, deviation, KEYS[0]).astype(np.float64)
    assert np.array_equal(noisy, np.rint(noisy / grid) * grid)
    assert grid < deviation / 10_000


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(1e-3, 1e6),
       st.sampled_from(["fp32", "int8", "topk:0.1"]))  # fmt: skip
def test_one_node_moves_the_mean_by_no_more_than_its_share_of_the_clip(
    nodes: int, seed: int, clip: float, length: float, encoding: str
) -> None:
    """Sensitivity, before any noise: taking a node's update away (zero in its place) moves the mean of n by at most
    C / n, putting any other in its place by at most 2 C / n, however long what it sends."""
    rng = np.random.default_rng(seed)
    codec = open_codec(encoding, 300)
    payloads = [codec.encode(rng.standard_normal(300).astype(np.float32)) for _ in range(nodes - 1)]
    mine, other = (codec.encode((rng.standard_normal(300) * length).astype(np.float32)) for _ in range(2))
    zero = open_codec(encoding, 300).encode(np.zeros(300, np.float32))

    def mean(last: memoryview) -> np.ndarray:
        running = RunningSum(300)
        for payload in (*payloads, last):
            running.add(payload, codec, 1, scale_down(check(payload, codec), clip))
        return running.mean().astype(np.float64)

    rounding = 1e-5 * clip + 1e-12
    assert np.linalg.norm(mean(mine) - mean(zero)) <= clip / nodes + rounding
    assert np.linalg.norm(mean(mine) - mean(other)) <= 2 * clip / nodes + rounding


def test_what_is_short_enough_is_not_touched() -> None:
    """Only what is longer than the clip is scaled; no clip touches nothing."""
    assert scale_down(0.5, 1.0) == scale_down(1.0, 1.0) == scale_down(7.0, 0.0) == scale_down(0.0, 1.0) == 1.0
    assert scale_down(4.0, 1.0) == 0.25


def test_a_private_guard_refuses_nobody_for_the_others_norms() -> None:
    """Where updates are clipped, one that is a million times longer than the usual is scaled, not refused."""
    guard = NormGuard.for_private(0.0)
    for norm in (1.0, 1.0, 1.0, 1.0, 1e12, 0.0):
        guard.admit(norm)


def test_updates_with_noise_of_their_own_are_held_against_one_another() -> None:
    """However long the noise makes them, one that is far longer than the usual is refused: its norm tells of noise."""
    guard = NormGuard.for_private(2.0)
    for norm in (1e9, 1.1e9, 0.9e9):
        guard.admit(norm)
    with pytest.raises(BadUpdate, match="usual are"):
        guard.admit(1e11)
