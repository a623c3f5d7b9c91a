"""The firmware's kernels, built for this machine, give what the reference gives: bit for bit."""

from __future__ import annotations

import ctypes
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.inference.micro import read_blob
from msrt.inference.micro.blob import Blob, Code, Note, Op, constants_offset, pack_blob
from msrt.inference.micro.interpret import interpret
from msrt.protocol import mcu
from msrt.protocol.messages import TensorSpec
from tests.cloud.models import data_file, kws
from tests.device.gateway.native import Engine
from tests.runtime.inference.micro.graphs import compiled, convolutions, quantised

NOTE = Note(TensorSpec("x", "INT8", (1, 1)), TensorSpec("y", "INT8", (1, 1)), (0, 1), (0, 1))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("engine"))


def blob_of(op: Op, seed: int) -> Blob:
    """One operator with random constants of the sizes that it needs."""
    generator = np.random.default_rng(seed)
    taps = op.kernel_h * op.kernel_w
    size = {Code.DENSE: op.in_bytes * op.out_c, Code.CONV: taps * op.in_c * op.out_c, Code.DEPTHWISE: taps * op.out_c}
    constants = bytearray()

    def put(values):
        at = constants_offset(1) + len(constants)
        constants.extend(values.tobytes() + bytes(-values.nbytes % 4))
        return at

    if op.code in size:
        op.weights = put(generator.integers(-128, 128, size[op.code]).astype(np.int8))
        op.bias = put(generator.integers(-(2**16), 2**16, op.out_c).astype("<i4"))
        op.multipliers = put(generator.integers(2**30, 2**31, op.out_c).astype("<i4"))
        op.shifts = put(generator.integers(34, 44, op.out_c).astype("<i4"))
    op.first, op.second = 0, op.in_bytes
    op.out = -(-2 * op.in_bytes // 4) * 4
    arena = op.out + op.out_bytes
    both = 2 * op.in_bytes if op.code == Code.ADD else op.in_bytes
    return read_blob(
        pack_blob(Blob([op], bytes(constants), arena, (0, both), (op.out, op.out_bytes), 1.0, 0, 1.0, 0, NOTE))
    )


small, side = st.integers(1, 3), st.integers(1, 9)
zeros = st.integers(-128, 127)


@st.composite
def windows(draw, code):
    """An operator that slides."""
    kernel_h, kernel_w, stride_h, stride_w = (draw(small) for _ in range(4))
    dilation_h, dilation_w = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    top, left = draw(st.integers(0, kernel_h - 1)), draw(st.integers(0, kernel_w - 1))
    reach_h, reach_w = (kernel_h - 1) * dilation_h + 1, (kernel_w - 1) * dilation_w + 1
    in_h, in_w = draw(st.integers(reach_h, reach_h + 6)), draw(st.integers(reach_w, reach_w + 6))
    channels = draw(st.integers(1, 9))
    out_c = (
        channels * draw(st.integers(1, 2)) if code == Code.DEPTHWISE else draw(side) if code == Code.CONV else channels
    )
    return Op(
        code, in_h=in_h, in_w=in_w, in_c=channels, out_h=(in_h + 2 * top - reach_h) // stride_h + 1,
        out_w=(in_w + 2 * left - reach_w) // stride_w + 1, out_c=out_c, kernel_h=kernel_h, kernel_w=kernel_w,
        stride_h=stride_h, stride_w=stride_w, pad_top=top, pad_left=left, dilation_h=dilation_h, dilation_w=dilation_w,
        zero=draw(zeros), out_zero=draw(zeros), low=draw(st.sampled_from([-128, -20])),
        high=draw(st.sampled_from([127, 60])), multiplier=draw(st.integers(2**30, 2**31 - 1)),
        shift=draw(st.integers(29, 33)), count_padding=draw(st.integers(0, 1)),
    )  # fmt: skip


@st.composite
def flat(draw, code):
    """An operator on numbers one by one, or all with all."""
    size = draw(st.integers(1, 40))
    return Op(
        code, in_c=size, out_c=draw(st.integers(1, 12)) if code == Code.DENSE else size, zero=draw(zeros),
        second_zero=draw(zeros), out_zero=draw(zeros), low=draw(st.sampled_from([-128, -20])),
        high=draw(st.sampled_from([127, 60])), multiplier=draw(st.integers(0, 2**31 - 1)),
        second_multiplier=draw(st.integers(0, 2**31 - 1)), shift=draw(st.integers(29, 33)),
    )  # fmt: skip


sliding = (Code.CONV, Code.DEPTHWISE, Code.AVERAGE_POOL, Code.MAX_POOL)
operators = st.sampled_from(list(Code)).flatmap(lambda code: windows(code) if code in sliding else flat(code))


@settings(max_examples=60)
@given(operators, st.integers(0, 2**31))
def test_each_operator_gives_the_bits_of_the_reference(engine, op, seed):
    """Whatever its shapes, padding, strides, zero points and clamps."""
    blob = blob_of(op, seed)
    rows = np.random.default_rng(seed).integers(-128, 128, (3, blob.input[1])).astype(np.int8)
    assert (engine.run(blob, rows) == interpret(blob, rows)).all()


def test_a_whole_network_gives_the_bits_of_the_reference(engine, tmp_path):
    """Every operator, one after the other in one arena."""
    rows = np.random.default_rng(2).normal(size=(20, 2, 10, 8)).astype(np.float32)
    blob = compiled(quantised(convolutions(), rows, tmp_path))
    numbers = np.random.default_rng(3).integers(-128, 128, (20, blob.input[1])).astype(np.int8)
    assert (engine.run(blob, numbers) == interpret(blob, numbers)).all()


@pytest.mark.slow
def test_keyword_spotting_gives_the_bits_of_the_reference(engine):
    """MLPerf Tiny's DS-CNN on keywords."""
    blob = compiled(data_file("kws", "kws01_dscnn_int8.onnx").read_bytes())
    rows = kws()[0][:40].reshape(40, -1)
    assert (engine.run(blob, rows) == interpret(blob, rows)).all()


@pytest.mark.slow
@settings(max_examples=500)
@given(st.data())
def test_a_hostile_blob_is_refused_or_harmless(engine, data):
    """Any word of a record may say anything, under a right checksum: what passes the check stays in its memory."""
    blob = blob_of(data.draw(operators), 1)
    name = data.draw(st.sampled_from(list(Op.__dataclass_fields__)))
    setattr(blob.ops[0], name, data.draw(st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 70))))
    board = pack_blob(blob)[: blob.board_bytes]
    result, model, _kept = engine.open(board, blob.arena)
    work = np.prod(
        [max(1, getattr(blob.ops[0], part)) for part in ("out_h", "out_w", "out_c", "kernel_h", "kernel_w", "in_c")],
        dtype=float,
    )
    if result == 0 and work < 1e7:
        guard = np.full(blob.arena + 128, 55, np.int8)
        engine.library.engine_run(model, guard[64:].ctypes.data, None)
        assert (guard[:64] == 55).all()
        assert (guard[64 + blob.arena :] == 55).all()


def test_a_damaged_blob_is_refused(engine, tmp_path):
    """By what it is: not one, another version, damaged, too large for the arena."""
    blob = blob_of(Op(Code.RESCALE, in_c=8, out_c=8, multiplier=2**30, shift=30), 1)
    board = blob.board
    assert engine.open(board, blob.arena)[0] == 0
    assert engine.open(b"XXXX" + board[4:], blob.arena)[0] == 1
    assert engine.open(board[:4] + b"\2" + board[5:], blob.arena)[0] == 2
    assert engine.open(board[:-1] + bytes([board[-1] ^ 1]), blob.arena)[0] == 3
    assert engine.open(board, blob.arena - 1)[0] == 4


@settings(max_examples=30)
@given(st.binary(max_size=mcu.BODY_LIMIT), st.integers(0, 255))
def test_its_frames_are_ours(engine, body, sequence):
    """What the firmware writes the gateway reads, and the other way round."""
    wanted = mcu.encode(mcu.Chunk(7, body[:-4]), sequence) if len(body) > 4 else mcu.encode(mcu.Done(1), sequence)
    raw = mcu.Chunk(7, body[:-4]).pack() if len(body) > 4 else mcu.Done(1).pack()
    kind = mcu.Kind.CHUNK if len(body) > 4 else mcu.Kind.DONE
    out = ctypes.create_string_buffer(1200)
    engine.library.frame_out.restype = ctypes.c_size_t
    size = engine.library.frame_out(out, ctypes.c_uint8(kind), ctypes.c_uint8(sequence), raw, ctypes.c_size_t(len(raw)))
    assert mcu.Decoder().feed(out.raw[:size]) == mcu.Decoder().feed(wanted)


@settings(max_examples=30)
@given(st.binary(max_size=300))
def test_its_digest_is_ours(engine, data):
    """SHA-256, whatever the length."""
    out = ctypes.create_string_buffer(32)
    engine.library.sha256(data, ctypes.c_size_t(len(data)), out, None)
    assert out.raw == hashlib.sha256(data).digest()
