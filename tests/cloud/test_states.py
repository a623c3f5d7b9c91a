"""Which tensors of a graph are its state."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from msrt.errors import InvalidModel
from msrt.inference.engine import Engine
from msrt_cloud.graph import inspect, read_graph, with_state
from tests.runtime.inference.models import mlp, model_of
from tests.runtime.inference.test_sequences import adder

DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data"))
F = TensorProto.FLOAT


def renamed(before, after, shape=("n", 2)):
    nodes = [helper.make_node("Add", ["x", before], ["y"]), helper.make_node("Identity", ["y"], [after])]
    spec = [F, list(shape)]
    return model_of(nodes, [("x", *spec), (before, *spec)], [("y", *spec), (after, *spec)]).SerializeToString()


def kept(data, *given):
    model = with_state(Engine().load(data), given)
    return [(pair.input, pair.output) for pair in getattr(model, "pairs", ())]


@pytest.mark.parametrize(
    ("before", "after"),
    [("state", "stateN"), ("h0", "hn"), ("cache_in", "cache_out"), ("hidden", "new_hidden"), ("past.memory", "memory")],
)
def test_state_is_found_by_its_names(before, after):
    """As frameworks export it."""
    assert kept(renamed(before, after)) == [(before, after)]


@pytest.mark.parametrize(("before", "after"), [("bias", "bias_out"), ("state", "score"), ("a", "b")])
def test_what_is_named_otherwise_is_no_state(before, after):
    """Two inputs and two outputs alone say nothing."""
    assert kept(renamed(before, after)) == []


def test_the_one_who_pushes_knows_better():
    """Given pairs count, `none` keeps nothing, a wrong one is refused by its name."""
    assert kept(adder(), "sum=sum_next") == [("sum", "sum_next")]
    assert kept(renamed("state", "stateN"), "none") == []
    with pytest.raises(InvalidModel, match="names no input and output"):
        kept(adder(), "sum=z")
    with pytest.raises(InvalidModel, match="names no input and output"):
        kept(mlp(), "state")


def test_a_stateful_model_neither_batches_nor_shows_its_state(tmp_path):
    """Rows of two callers would share one state; who asks brings the rest of the inputs."""
    path = tmp_path / "m.onnx"
    path.write_bytes(renamed("state", "stateN"))
    info = inspect(read_graph(path), with_state(Engine().load(path.read_bytes()), ()))
    assert ([s.name for s in info.inputs], [s.name for s in info.outputs]) == (["x"], ["y"])
    assert not info.batchable
    assert not info.rowwise
    assert info.state[0].shape == (-1, 2)


@pytest.mark.skipif(not (DATA / "silero-vad").is_dir(), reason="MSRT_DATA has no silero-vad")
@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_half", "silero_vad_16k_op15"])
def test_a_foreign_model_keeps_its_state(name):
    """Found without being told; its steps are what the bare engine gives with the state fed back by hand."""
    data = (DATA / "silero-vad" / f"{name}.onnx").read_bytes()
    model = with_state(Engine().load(data), ())
    assert [(pair.input, pair.output, pair.shape) for pair in model.pairs] == [("state", "stateN", (2, -1, 128))]
    bare = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    sr = {"sr": np.array(16000)} if any(spec.name == "sr" for spec in model.inputs) else {}
    state, theirs = None, np.zeros((2, 1, 128), np.float32)
    for seed in range(5):
        x = np.random.default_rng(seed).normal(0, 0.1, (1, 576)).astype(np.float32)
        (ours,), state = model.step({"input": x, **sr}, (), state)
        wanted, theirs = bare.run(["output", "stateN"], {"input": x, "state": theirs, **sr})
        assert np.array_equal(ours, wanted)
