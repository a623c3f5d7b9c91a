"""The parts by themselves: shares, whole numbers, the graph."""

from __future__ import annotations

import contextlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import BadSignature, BadUpdate, InvalidJob
from msrt.learning.secure_aggregation import Fixed
from msrt.learning.secure_aggregation.fixed import add, parts
from msrt.learning.secure_aggregation.graph import RISK, degree, neighbours, shuffled, threshold_of
from msrt.learning.secure_aggregation.masks import agreement, public_of
from msrt.learning.secure_aggregation.shamir import PRIME, SHARE_SIZE, combine, split

RANDOM = random.Random(5)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, data):
    """Whichever and in whatever order; one fewer gives something else."""
    holders = data.draw(st.sets(st.integers(1, 400), min_size=threshold, max_size=16))
    shares = split(secret, holders, threshold, RANDOM.randbytes)
    chosen = data.draw(st.permutations(sorted(holders)))[:threshold]
    assert combine({holder: shares[holder] for holder in chosen}) == secret
    if threshold > 1:
        fewer = {holder: shares[holder] for holder in chosen[1:]}
        with contextlib.suppress(BadUpdate):
            assert combine(fewer) != secret


def test_fewer_shares_say_nothing():
    """For any two shares of three there is a third for every secret whatever: they fit all."""
    shares = split(bytes(32), [1, 2, 3], 3, RANDOM.randbytes)
    for secret in (1, 12345, PRIME - 298):
        y = [int.from_bytes(shares[x], "little") for x in (1, 2)]
        third = (secret - 3 * y[0] + 3 * y[1]) % PRIME  # at 0: 3 y1 - 3 y2 + y3
        found = combine({1: shares[1], 2: shares[2], 3: third.to_bytes(SHARE_SIZE, "little")})
        assert found == secret.to_bytes(32, "little")


@pytest.mark.parametrize("shares", [{}, {0: bytes(33)}, {1: b"\xff" * 33}, {1: b"\xff" * 33, 2: bytes(33)}])
def test_what_are_no_shares_is_refused(shares):
    """None, one of nobody, a number beyond the prime."""
    with pytest.raises(BadUpdate):
        combine(shares)


def test_the_prime_is_one():
    """The smallest above 2^256 (Fermat's test with forty bases; 2^256 + 1 fools base 2)."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 42))
    assert not any(pow(3, n - 1, n) == 1 for n in range(2**256 + 1, PRIME, 2))


def test_a_key_that_is_none_is_refused():
    """The point of order one would make every agreement the same."""
    with pytest.raises(BadSignature):
        agreement(bytes(range(32)))(bytes(32))
    assert agreement(b"a" * 32)(public_of(b"b" * 32)) == agreement(b"b" * 32)(public_of(b"a" * 32))


@pytest.mark.parametrize("bits", [16, 32])
def test_the_mean_is_unbiased_and_as_fine_as_it_says(bits):
    """Rounded up or down at random: the error is below a step, and none is left on average."""
    fixed = Fixed(10_000, 8, 10, clip=1000.0, span=1.0, bits=bits)
    flat = np.full(10_000, 0.123456, np.float32)
    one = fixed.encode(flat, 10, {}, seed=1)
    step = 1 / fixed.scale
    mean, total = fixed.decode(one)
    assert abs(mean - flat).max() <= step * 1.01 + 1e-7
    assert abs(mean.mean() - 0.123456) < step / 20 + 1e-7
    assert total.samples == 10


def test_elements_beyond_the_span_are_cut():
    """And nothing wraps around, whatever the number of nodes."""
    fixed = Fixed(4, 3, 1, clip=100.0, span=1.0)
    flat = np.array([5, -5, 0.5, 0], np.float32)
    total = memoryview(bytearray(fixed.bytes))
    for seed in range(3):
        add(fixed.encode(flat, 1, {}, seed), total, 32)
    mean, _ = fixed.decode(total)
    assert np.allclose(mean, [1, -1, 0.5, 0], atol=1e-6)


def test_more_samples_than_the_most_count_as_the_most():
    """Nobody outweighs the others by a claim."""
    fixed = Fixed(3, 3, 10, clip=1.0)
    assert parts(fixed.encode(np.zeros(3, np.float32), 10**9, {}, 0), 32)[0][0] == 10


def test_metrics_without_a_number_are_left_out():
    """NaN loss of one node: the mean is that of the others."""
    fixed = Fixed(1, 2, 10, clip=1.0)
    total = memoryview(bytearray(fixed.bytes))
    flat = np.zeros(1, np.float32)
    add(fixed.encode(flat, 5, {"loss": float("nan"), "accuracy": 1.0}, 0), total, 32)
    add(fixed.encode(flat, 5, {"loss": 3.0}, 0), total, 32)
    _, said = fixed.decode(total)
    assert said.metrics == {"loss": pytest.approx(3.0), "accuracy": pytest.approx(1.0)}


def test_too_many_nodes_for_the_bits_are_refused():
    """Where not one step is left for each."""
    with pytest.raises(InvalidJob, match="16 bits"):
        Fixed(1, 40_000, 1, 1.0, bits=16)


def test_a_sum_whose_masks_are_still_on_is_no_sum():
    """Random samples are not believed."""
    fixed = Fixed(4, 3, 10, 1.0)
    with pytest.raises(BadUpdate, match="masks"):
        fixed.decode(np.random.default_rng(0).bytes(fixed.bytes))


@pytest.mark.parametrize(("count", "wanted"), [(3, 2), (4, 2), (5, 4), (10, 4), (11, 5), (64, 16)])
def test_neighbours_are_mutual_and_as_many_as_wanted(count, wanted):
    """On a ring everybody has as many, and whoever I share with shares with me."""
    near = neighbours(count, wanted)
    assert {len(one) for one in near} == {min(count - 1, wanted + wanted % 2)}
    assert all(one in near[other] for one, others in enumerate(near) for other in others)
    assert not any(one in others for one, others in enumerate(near))


def test_the_order_follows_from_the_seed():
    """Another seed, another ring."""
    names = [f"n{number}" for number in range(20)]
    assert shuffled(names, b"a") == shuffled(reversed(names), b"a") != shuffled(names, b"b")


@pytest.mark.parametrize("share", [0.5, 0.6, 2 / 3])
@pytest.mark.parametrize("count", [8, 64, 200])
def test_so_many_neighbours_survive_the_drop_outs(share, count):
    """Drawn 2,000 times: hardly ever are more than the spare neighbours of anybody gone."""
    wanted = degree(count, 0.2, share)
    near = neighbours(count, wanted)
    spare = len(near[0]) - threshold_of(len(near[0]), share)
    gone, rng, failed = -(-count // 5), random.Random(1), 0
    for _ in range(2_000):
        lost = set(rng.sample(range(count), gone))
        failed += any(len(lost.intersection(others)) > spare for others in near)
    assert failed <= 2 + 2_000 * RISK * 10
    assert wanted < count


def test_a_lie_to_two_halves_never_yields_both_secrets():
    """Of k holders, t must say the one kind and t others the other: more than there are."""
    for near, share in itertools.product(range(2, 40), (0.1, 0.5, 0.7, 1.0)):
        assert 2 * threshold_of(near, share) > near
