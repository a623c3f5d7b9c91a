from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate, Corrupt
from msrt.learning.compress import SPAN, ErrorFeedback, open_codec
from msrt.learning.compress.codec import BLOCK, rows_of
from msrt.learning.vector import Layout

SIZES = (0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, SPAN, SPAN + BLOCK + 3)
EXACT_TO = {"fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8}
UNBIASED = ("fp32", "fp16", "bf16", "int8")
BIASED = ("sign", "topk:0.05", "powersgd:2")
PERCEPTRON = Layout.of({
    "0.weight": np.zeros((200, 784), np.float32), "0.bias": np.zeros(200, np.float32),
    "1.weight": np.zeros((200, 200), np.float32), "1.bias": np.zeros(200, np.float32),
    "2.weight": np.zeros((10, 200), np.float32), "2.bias": np.zeros(10, np.float32),
})  # fmt: skip


def _vector(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_rows_cover_every_element_once(size: int) -> None:
    """Whatever the size, rows of blocks are contiguous and end where the vector ends."""
    at = 0
    for start, rows, width in rows_of(size):
        assert start == at
        at += rows * width
    assert at == size


@pytest.mark.parametrize("name", [*UNBIASED, *BIASED])
@pytest.mark.parametrize("size", SIZES[1:])
def test_a_payload_has_the_length_its_codec_says(name: str, size: int) -> None:
    """Known before it comes, for any size; another length is refused."""
    codec = open_codec(name, size)
    payload = codec.encode(_vector(size))
    assert len(payload) == codec.bytes
    assert codec.decode(payload).size == size
    with pytest.raises(BadUpdate, match=f"expected {codec.bytes} for {size} parameters as {name}"):
        codec.decode(bytes(payload) + b"\0")


@pytest.mark.parametrize(("name", "off"), EXACT_TO.items())
def test_dense_codecs_round_each_element(name: str, off: float) -> None:
    """Each element comes back within the precision of its format."""
    flat = _vector(3000) * np.float32(100)
    codec = open_codec(name, 3000)
    assert (np.abs(codec.decode(codec.encode(flat)) - flat) <= off * np.abs(flat)).all()


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_off_by_one_code_at_most(size: int) -> None:
    """Each element comes back within a step of its block's scale."""
    flat, codec = _vector(size), open_codec("int8", size)
    back = codec.decode(codec.encode(flat))
    for start in range(0, size, BLOCK):
        block = flat[start : start + BLOCK]
        assert np.abs(back[start : start + BLOCK] - block).max() <= np.abs(block).max() / 127 * 1.0001


def test_int8_is_right_on_average() -> None:
    """Rounded with many dice, the mean of what arrives is what was sent: a hundredth of a code off, not half of one."""
    flat, codec = _vector(BLOCK), open_codec("int8", BLOCK)
    mean = np.mean([codec.decode(codec.encode(flat, seed)) for seed in range(3000)], axis=0)
    code = np.abs(flat).max() / 127
    assert np.abs(mean - flat).max() < 0.05 * code
    assert abs((mean - flat).mean()) < 0.005 * code


def test_the_same_turn_rolls_the_same_dice() -> None:
    """A round trained again gives the same payload; another node's or round's dice differ."""
    flat, codec = _vector(5000), open_codec("int8", 5000)
    assert ErrorFeedback(codec, 7).encode(flat, 3) == ErrorFeedback(codec, 7).encode(flat, 3)
    assert ErrorFeedback(codec, 7).encode(flat, 3) != ErrorFeedback(codec, 7).encode(flat, 4)
    assert ErrorFeedback(codec, 7).encode(flat, 3) != ErrorFeedback(codec, 8).encode(flat, 3)


@pytest.mark.parametrize(("name", "times"), [("int8", 3.98), ("sign", 30.9), ("topk:0.01", 50), ("powersgd:2", 50)])
def test_how_many_fewer_bytes(name: str, times: float) -> None:
    """Of McMahan's perceptron of 199,210 parameters."""
    assert PERCEPTRON.size == 199_210
    assert 4 * PERCEPTRON.size / open_codec(name, PERCEPTRON).bytes >= times


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*UNBIASED, *BIASED])
def test_what_is_not_finite_is_not_sent(bad: float, name: str) -> None:
    """A diverged update fails at its sender, and leaves the error feedback as it was."""
    flat = _vector(BLOCK * 2)
    feedback = ErrorFeedback(open_codec(name, flat.size))
    feedback.encode(flat)
    before = feedback.save()
    flat[BLOCK + 3] = bad
    with pytest.raises(BadUpdate, match="not finite"):
        feedback.encode(flat)
    assert feedback.save() == before


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_what_half_the_bytes_cannot_hold_is_not_sent(name: str) -> None:
    """Too large for the format: an error at the sender, not an infinity at the receiver."""
    with pytest.raises(BadUpdate, match="too large"):
        open_codec(name, 3).encode(np.array([1.0, 3.4e38, 0.0], np.float32))


@pytest.mark.parametrize("name", ["int8", "sign"])
def test_zeros_and_the_tiniest_numbers_travel_without_a_warning(name: str) -> None:
    """A block whose scale would be subnormal is as good as zero."""
    flat, codec = np.array([0.0, 1e-38, -1e-42], np.float32), open_codec(name, 3)
    assert np.abs(codec.decode(codec.encode(flat))).max() < 1e-37


@settings(max_examples=25)
@given(st.sampled_from(BIASED), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 2**31))
def test_error_feedback_loses_nothing_in_the_long_run(name: str, size: int, rounds: int, seed: int) -> None:
    """The sum of all that was sent plus the residual is the sum of all that was meant."""
    codec = open_codec(name, size)
    feedback = ErrorFeedback(codec)
    meant, sent = np.zeros(size), np.zeros(size)
    for at in range(rounds):
        flat = _vector(size, seed + at)
        meant += flat
        sent += codec.decode(feedback.encode(flat, at))
    assert np.allclose(sent + feedback.residual, meant, atol=1e-4)


@pytest.mark.parametrize("name", ["sign", "topk:0.05", "powersgd:2"])
def test_error_feedback_survives_a_restart(name: str) -> None:
    """Saved and loaded, it sends the same next payload; broken bytes are refused."""
    codec = open_codec(name, Layout.of({"w": np.zeros((50, 40), np.float32)}))
    one = ErrorFeedback(codec)
    one.encode(_vector(2000), 1)
    two = ErrorFeedback.load(one.save(), codec)
    assert one.encode(_vector(2000, 1), 2) == two.encode(_vector(2000, 1), 2)
    with pytest.raises(Corrupt):
        ErrorFeedback.load(one.save()[:-1], codec)
    with pytest.raises(Corrupt):
        ErrorFeedback.load(np.full(len(one.save()) // 4, np.nan, np.float32).tobytes(), codec)


@pytest.mark.parametrize("name", UNBIASED)
def test_an_unbiased_codec_has_nothing_to_remember(name: str) -> None:
    """Its sender saves nothing, whatever it sent."""
    feedback = ErrorFeedback(open_codec(name, 2000))
    feedback.encode(_vector(2000))
    assert feedback.empty
    assert not len(feedback.save())


def test_topk_keeps_the_largest() -> None:
    """One in a hundred, by magnitude; the others come back as zeros."""
    flat, codec = _vector(1000), open_codec("topk:0.01", 1000)
    back = codec.decode(codec.encode(flat))
    kept = np.flatnonzero(back)
    assert len(kept) == 10
    assert np.array_equal(back[kept], flat[kept])
    assert np.abs(flat[kept]).min() >= np.delete(np.abs(flat), kept).max()


@pytest.mark.parametrize("indices", [(3, 3), (5, 4), (1, 100)])
def test_topk_refuses_indices_that_do_not_ascend(indices: tuple[int, int]) -> None:
    """Twice the same, out of order or out of range: nothing is added."""
    codec = open_codec("topk:0.02", 100)
    payload = np.array(indices, "<u4").tobytes() + np.ones(2, "<f4").tobytes()
    with pytest.raises(BadUpdate, match="do not ascend"):
        codec.squares(payload)


def test_powersgd_finds_a_matrix_of_its_rank() -> None:
    """What is of rank two is sent whole, after one warm step; vectors travel as they are."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((60, 2)) @ rng.standard_normal((2, 40))).astype(np.float32)
    bias = _vector(60)
    layout = Layout.of({"weight": weight, "bias": bias})
    codec = open_codec("powersgd:2", layout)
    flat = layout.flatten({"weight": weight, "bias": bias})
    assert np.allclose(codec.decode(codec.encode(flat)), flat, atol=1e-4)
    assert codec.bytes == 4 * (2 * (60 + 40) + 60)


def test_powersgd_comes_nearer_from_step_to_step() -> None:
    """The same matrix again and again: power iteration approaches the best approximation of that rank."""
    layout = Layout.of({"weight": np.zeros((80, 50), np.float32)})
    codec, flat = open_codec("powersgd:2", layout), _vector(4000)
    memory, rng, residual = codec.first_memory(), np.random.default_rng(0), np.empty(4000, np.float32)
    left = []
    for _ in range(60):
        codec.write(flat, memoryview(bytearray(codec.bytes)), residual, memory, rng)
        left.append(float(np.linalg.norm(residual)))
    best = float(np.sqrt((np.linalg.svd(flat.reshape(80, 50), compute_uv=False)[2:] ** 2).sum()))
    assert left[-1] < left[0]
    assert left[-1] == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(
    "name", ["int4", "int8:3", "topk", "topk:0", "topk:1.5", "topk:x", "powersgd:0", "powersgd:-1"]
)
def test_an_unknown_name_is_refused(name: str) -> None:
    """With the names that are known."""
    with pytest.raises(BadUpdate, match="unknown encoding"):
        open_codec(name, 10)


def test_another_codec_than_agreed_is_refused() -> None:
    """By name, even where the length would fit."""
    with pytest.raises(BadUpdate, match="agreed was fp16"):
        open_codec("fp16", 10).named("bf16")
