from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate, InvalidJob
from msrt.learning.compress import open_codec
from msrt.learning.compress.codec import BLOCK
from msrt.learning.rules import Robust, Rule, Total, open_rule, robust
from msrt.learning.rules.distances import krum, squared_distances
from msrt.learning.vector import Layout, Vector

RULES = ("median", "trimmed:0.2", "krum:1", "multi-krum:1:3", "bulyan:1")


def _updates(nodes: int, size: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal((nodes, size)).astype(np.float32)


def _mean(rule: str, updates: Vector, codec: str = "fp32", scale: float = 1.0) -> Vector:
    packed, found = open_codec(codec, updates.shape[1]), Robust(open_rule(rule), updates.shape[1])
    for at, update in enumerate(updates):
        found.add(packed.encode(update), packed, 1.0 + at, scale)
    return found.mean()


def _krum_scores(updates: np.ndarray, liars: int) -> np.ndarray:
    """By the letter of the paper."""
    count = len(updates)
    scores = []
    for i in range(count):
        others = sorted(float(np.sum((updates[i] - updates[j]) ** 2)) for j in range(count) if j != i)
        scores.append(sum(others[: max(1, count - liars - 2)]))
    return np.array(scores)


def _plain(rule: str, updates: Vector) -> np.ndarray:
    """Each rule by the letter of its paper, in float64 and with the whole stack in memory."""
    wide, count, known = updates.astype(np.float64), len(updates), open_rule(rule)
    if known.kind == "median":
        return np.median(wide, axis=0)
    if known.kind == "trimmed":
        cut = int(known.share * count)
        return np.sort(wide, axis=0)[cut : count - cut].mean(axis=0)
    if known.kind == "bulyan":
        left = list(range(count))
        chosen = [left.pop(int(np.argmin(_krum_scores(wide[left], known.liars)))) for _ in range(count - 2)]
        stack = wide[chosen]
        off = np.abs(stack - np.median(stack, axis=0))
        near = np.argsort(off, axis=0, kind="stable")[: count - 4 * known.liars]
        return np.take_along_axis(stack, near, axis=0).mean(axis=0)
    best = np.argsort(_krum_scores(wide, known.liars), kind="stable")[: known.kept]
    return wide[best].mean(axis=0)


@settings(max_examples=60)
@given(st.sampled_from(RULES), st.integers(7, 20), st.integers(1, 50) | st.just(3 * BLOCK + 7), st.integers(0, 2**31))
def test_each_rule_is_the_one_of_its_paper(rule: str, nodes: int, size: int, seed: int) -> None:
    """Whatever the number of nodes and parameters."""
    updates = _updates(nodes, size, seed)
    assert np.allclose(_mean(rule, updates), _plain(rule, updates), atol=1e-5)


@settings(max_examples=60)
@given(
    st.sampled_from(("median", "trimmed:0.3", "bulyan:2")),
    st.integers(0, 2),
    st.floats(-1e4, 1e4),
    st.integers(0, 2**31),
)
def test_liars_cannot_leave_the_range_of_the_honest(rule: str, liars: int, lie: float, seed: int) -> None:
    """Coordinate by coordinate, whatever they send, while they are as few as the rule is made for. Bulyan's is the mean
    of what is nearest to the honest median: a lie may be in it that is nearer than the honest are to each other."""
    updates = _updates(11, 40, seed)
    updates[:liars] = updates[:liars] * np.float32(lie)
    honest = updates[liars:]
    found = _mean(rule, updates)
    span = honest.max(axis=0) - honest.min(axis=0)
    slack = span if rule.startswith("bulyan") else np.float32(1e-5)
    assert (found >= honest.min(axis=0) - slack).all()
    assert (found <= honest.max(axis=0) + slack).all()


@pytest.mark.parametrize("rule", ["krum:2", "multi-krum:2:4"])
def test_krum_chooses_none_of_the_liars(rule: str) -> None:
    """Two of eleven that agree with each other on something far away."""
    updates = _updates(11, 200)
    updates[[3, 7]] = 50.0
    assert np.abs(_mean(rule, updates)).max() < 5


@pytest.mark.parametrize("rule", RULES)
def test_blocks_meet_without_a_seam(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one block of each node at a time the result is the same, and pages are let go after each."""
    updates = _updates(9, 5 * BLOCK + 3)
    whole = _mean(rule, updates)
    monkeypatch.setattr(robust, "ROOM", 9 * BLOCK)
    released: list[int] = []
    codec = open_codec("fp32", updates.shape[1])
    parts = Robust(open_rule(rule), updates.shape[1], lambda: released.append(1))
    for update in updates:
        parts.add(codec.encode(update), codec, 1.0)
    assert np.allclose(parts.mean(), whole, atol=1e-6)
    assert len(released) >= 6


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "sign"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_reads_updates_as_they_travel(rule: str, codec: str) -> None:
    """Compressed ones count as what they stand for."""
    updates = _updates(8, 2 * BLOCK + 9)
    packed = open_codec(codec, updates.shape[1])
    stood_for = np.stack([packed.decode(packed.encode(update)) for update in updates])
    assert np.allclose(_mean(rule, updates, codec), _mean(rule, stood_for), atol=1e-6)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "int8", "sign", "topk:0.1", "powersgd:2"])
def test_a_part_of_a_payload_is_that_part_of_its_vector(codec: str) -> None:
    """From any block on, of any length, in whatever tensors the coordinates lie."""
    tensors = {"a": (30, 200), "b": (200,), "c": (7, 20, 30), "d": (11,), "e": ()}
    layout = Layout.of({name: np.zeros(shape, np.float32) for name, shape in tensors.items()})
    packed = open_codec(codec, layout)
    payload = packed.encode(_updates(1, layout.size)[0])
    whole = packed.decode(payload)
    for start in range(0, layout.size, BLOCK):
        for size in (1, 100, BLOCK, 3 * BLOCK, layout.size):
            out = np.full(min(size, layout.size - start), np.nan, np.float32)
            packed.part(payload, start, out)
            assert np.allclose(out, whole[start : start + out.size], atol=1e-6), (start, size)


def test_a_clipped_update_is_shortened_before_it_is_judged() -> None:
    """Every one by its own scale."""
    updates = _updates(5, 10)
    assert np.allclose(_mean("median", updates, scale=0.5), np.median(updates, axis=0) / 2, atol=1e-6)


def test_near_updates_of_great_length_keep_their_distance() -> None:
    """Where float32 products would lose it: a thousandth apart, a hundred thousand long."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(1000) * 1e4
    rows = (base + rng.standard_normal((4, 1000)) * 1e-2).astype(np.float32).astype(np.float64)
    exact = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    assert np.allclose(squared_distances(rows @ rows.T), exact, rtol=1e-2)
    assert krum(squared_distances(rows @ rows.T), 1) == [int(np.argmin(_krum_scores(rows, 1)))]


@pytest.mark.parametrize(
    ("text", "least"),
    [("mean", 0), ("", 0), ("median", 3), ("trimmed:0.1", 10), ("trimmed:0.4", 3), ("krum:2", 7),
     ("multi-krum:1:3", 6), ("multi-krum:3:1", 9), ("bulyan:1", 7), ("bulyan:2", 11)],
)  # fmt: skip
def test_a_rule_knows_how_many_it_needs(text: str, least: int) -> None:
    """With fewer it would promise what it cannot hold, so it refuses."""
    rule = open_rule(text)
    assert rule.least == least
    if least:
        with pytest.raises(BadUpdate, match=f"it needs {least}"):
            _mean(text, _updates(least - 1, 4))


@pytest.mark.parametrize(
    "text", ["average", "trimmed", "trimmed:0.5", "trimmed:.0", "krum", "krum:0", "multi-krum:1", "bulyan:-1"]
)
def test_another_word_is_no_rule(text: str) -> None:
    """It says which there are."""
    with pytest.raises(InvalidJob):
        open_rule(text)


def test_a_plain_mean_is_no_robust_rule() -> None:
    """And says so."""
    assert not Rule().robust
    assert all(open_rule(text).robust for text in RULES)


def test_sums_and_singles_meet_by_their_weights() -> None:
    """A robust rule's word on the singles counts as one more region's; the mean takes them one by one."""
    codec = open_codec("fp32", 2)
    region, *singles = [codec.encode(np.array(row, np.float32)) for row in ((4, 0), (1, 1), (2, 2), (90, -90))]
    robust_one, plain = Total(open_rule("median"), 2), Total(Rule(), 2)
    for total, done in ((robust_one, False), (plain, True)):
        assert total.add(region, codec, 3.0, is_sum=True)
        assert [total.add(single, codec, 1.0, is_sum=False) for single in singles] == [done] * 3
    assert robust_one.mean().tolist() == [3.0, 0.5]
    assert plain.mean().tolist() == [17.5, -14.5]
    alone = Total(open_rule("median"), 2)
    for single in singles:
        alone.add(single, codec, 1.0, is_sum=False)
    assert alone.mean().tolist() == [2.0, 1.0]
    with pytest.raises(BadUpdate):
        Total(open_rule("median"), 2).mean()
