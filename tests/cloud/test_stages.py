"""Graphs that a push brings beside its model: looked at, run around it, and held to it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from msrt.errors import InvalidModel, InvalidTensor
from msrt.inference.engine import Engine
from msrt_cloud.prepare import PrepareOptions, Task
from msrt_cloud.samples import Samples
from msrt_cloud.stages import load_stages
from msrt_cloud.workshop import work
from tests.cloud.models import blobs, classifier, save

WIDTH, CLASSES = 16, 4


def tenth(shape=("n", WIDTH)) -> bytes:
    """Whole numbers to a tenth of them."""
    nodes = [
        helper.make_node("Cast", ["raw"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "tenth"], ["scaled"]),
    ]
    inputs, outputs = [("raw", TensorProto.INT32, shape)], [("scaled", TensorProto.FLOAT, shape)]
    return save(nodes, inputs, outputs, [numpy_helper.from_array(np.float32(0.1), "tenth")])


def softmax(classes=CLASSES) -> bytes:
    spec = [TensorProto.FLOAT, ["n", classes]]
    return save([helper.make_node("Softmax", ["y"], ["p"], axis=1)], [("y", *spec)], [("p", *spec)])


def cut() -> bytes:
    """As many of the numbers as the last of them says."""
    nodes = [
        helper.make_node("Gather", ["raw", "last"], ["end"], axis=1),
        helper.make_node("Squeeze", ["end", "zero"], ["stop"]),
        helper.make_node("Slice", ["raw", "start", "stop", "one"], ["part"]),
        helper.make_node("Cast", ["part"], ["scaled"], to=TensorProto.FLOAT),
    ]
    numbers = {"last": [-1], "zero": [0], "start": [0], "one": [1]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    inputs, outputs = [("raw", TensorProto.INT64, [1, 4])], [("scaled", TensorProto.FLOAT, [1, "m"])]
    return save(nodes, inputs, outputs, constants)


@pytest.fixture
def room(tmp_path):
    (tmp_path / "out").mkdir()
    for name, data in (("model", classifier()), ("pre", tenth()), ("post", softmax())):
        (tmp_path / f"{name}.onnx").write_bytes(data)
    x, y = blobs()
    raw = np.rint(x * 10).astype(np.int32)
    np.save(tmp_path / "x.npy", raw)
    np.savez(tmp_path / "xy.npz", x=raw, y=y)
    return tmp_path


def done(room, **options):
    ticks = itertools.count()
    paths = {name: str(room / value) if name in ("calibrate", "evaluate", "pre", "post") else value
             for name, value in options.items()}  # fmt: skip
    task = Task(str(room / "model.onnx"), str(room / "out"), PrepareOptions(**paths))
    return work(task, lambda: next(ticks) * 1e-5)


def test_the_version_takes_and_gives_what_its_graphs_do(room):
    """Judged, quantised, measured and checked for riding together as a whole; both data files are raw."""
    prepared = done(room, pre="pre.onnx", post="post.onnx", calibrate="x.npy", evaluate="xy.npz", require="int8")
    assert [(spec.name, spec.dtype) for spec in prepared.inputs] == [("raw", "INT32")]
    assert [(spec.name, spec.dtype) for spec in prepared.outputs] == [("p", "FP32")]
    assert prepared.batchable
    assert prepared.report["accuracy_fp32"] == prepared.report["accuracy_int8"] == 1.0
    assert prepared.report["pre"] == "raw INT32 [-1, 16] -> scaled FP32 [-1, 16]"
    manifest = prepared.manifest("net", 1)
    assert manifest.pre is not None
    assert manifest.pre.size == (room / "pre.onnx").stat().st_size
    assert manifest.post is not None


def test_a_model_without_them_has_none(room):
    """And one with one has one."""
    assert done(room, post="post.onnx").stages.keys() == {"post"}
    np.save(room / "f.npy", blobs()[0])
    prepared = done(room, calibrate="f.npy")
    assert (prepared.stages, prepared.manifest("net", 1).pre) == ({}, None)


def test_what_does_not_fit_is_refused_by_name(room):
    """A graph for another model, one that is no graph, data for what is behind it."""
    (room / "pre.onnx").write_bytes(tenth(["n", 7]))
    with pytest.raises(InvalidModel, match="pre-processing graph gives scaled"):
        done(room, pre="pre.onnx")
    (room / "pre.onnx").write_bytes(b"no graph")
    with pytest.raises(InvalidModel, match="the pre-processing graph: "):
        done(room, pre="pre.onnx")
    np.save(room / "floats.npy", blobs()[0])
    (room / "pre.onnx").write_bytes(tenth())
    with pytest.raises(InvalidTensor, match="takes INT32, the array is float32"):
        done(room, pre="pre.onnx", calibrate="floats.npy")


def test_samples_behind_a_graph_are_of_one_size(room):
    """A quantiser is given one array."""
    (room / "cut.onnx").write_bytes(cut())
    stages = load_stages(str(room / "cut.onnx"), "")
    model = Engine().load(save([helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.FLOAT, [1, "m"])],
                               [("y", TensorProto.FLOAT, [1, "m"])]))  # fmt: skip
    same = Samples({"raw": np.array([[1, 2, 3, 2], [4, 5, 6, 2]])}, np.array([0, 1]))
    inner = stages.inner(same, model)
    assert np.array_equal(inner.inputs["x"], [[1, 2], [4, 5]])
    assert inner.labels is same.labels
    with pytest.raises(InvalidTensor, match="another shape from sample to sample"):
        stages.inner(Samples({"raw": np.array([[1, 2, 3, 2], [4, 5, 6, 3]])}), model)
