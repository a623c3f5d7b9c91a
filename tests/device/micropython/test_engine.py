"""The engine in MicroPython gives what the reference gives: bit for bit."""

from __future__ import annotations

import array
import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.inference.micro.host import to_board
from msrt.inference.micro.interpret import interpret
from msrt_device.flash.targets.micropython import SOURCES
from tests.cloud.models import data_file, kws
from tests.device.gateway.test_kernels import blob_of, operators
from tests.device.micropython.wasm import run
from tests.runtime.inference.micro.graphs import compiled, convolutions, quantised
from tests.runtime.inference.models import mlp


@pytest.fixture(scope="module")
def engine():
    """The same file under this interpreter, where a thousand cases are quick."""
    sys.path.insert(0, str(SOURCES))
    try:
        yield importlib.import_module("msrt_engine")
    finally:
        sys.path.remove(str(SOURCES))
        sys.modules.pop("msrt_engine", None)


def ran(engine, blob, rows):
    model, found = engine.Model(array.array("b", blob.board), len(blob.board), blob.arena), []
    arena = array.array("b", bytes(blob.arena))
    for row in rows:
        at, size = blob.input
        memoryview(arena)[at : at + size] = array.array("b", row.tobytes())
        model.run(arena, lambda: None)
        at, size = blob.output
        found.append(np.array(arena[at : at + size], np.int8))
    return np.array(found)


@given(operators, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_each_operator_is_the_reference(engine, op, seed):
    """Any window, padding, stride, dilation, zero point and clamp."""
    blob = blob_of(op, seed)
    rows = np.random.default_rng(seed).integers(-128, 128, (2, blob.input[1])).astype(np.int8)
    assert (ran(engine, blob, rows) == interpret(blob, rows)).all()


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_blob_is_refused(engine, tmp_path_factory, data):
    """Any byte that is another one, anywhere: no model, and nothing is read outside."""
    board = bytearray(blob_of(data.draw(operators), 1).board)
    at = data.draw(st.integers(0, len(board) - 1))
    board[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((engine.NotAModel, engine.NoRoom)):
        engine.Model(array.array("b", bytes(board)), len(board), 1 << 20)


def test_an_mlp_in_webassembly_is_the_reference(tmp_path):
    """The official MicroPython, the model of a push: the same bytes for every row."""
    rows = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    blob = compiled(quantised(mlp((16, 24, 5)), rows, tmp_path))
    given_ = to_board(blob, rows)
    assert (run(tmp_path, blob.board, given_, blob.output[1]) == interpret(blob, given_)).all()


def test_images_in_webassembly_are_the_reference(tmp_path):
    """Convolutions, pools and a residual as well."""
    rows = np.random.default_rng(2).normal(size=(20, 2, 10, 8)).astype(np.float32)
    blob = compiled(quantised(convolutions(), rows, tmp_path))
    given_ = to_board(blob, rows)
    assert (run(tmp_path, blob.board, given_, blob.output[1]) == interpret(blob, given_)).all()


@pytest.mark.slow
def test_keyword_spotting_in_webassembly_is_the_reference(tmp_path):
    """MLPerf Tiny's DS-CNN, on three keywords: it takes seconds each, and is right."""
    rows, _ = kws()
    blob = compiled(data_file("kws", "kws01_dscnn_int8.onnx").read_bytes())
    given_ = rows[:3].reshape(3, -1)
    assert (run(tmp_path, blob.board, given_, blob.output[1]) == interpret(blob, given_)).all()
