"""Data and models for the workshop's tests: small ones made here, real ones under $MSRT_DATA (skipped where absent)."""

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]


def data_file(*parts: str) -> Path:
    """A file of the shared data, or a visible skip."""
    path = Path(os.environ.get("MSRT_DATA", ROOT.parent / "shared" / "data")).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)} under $MSRT_DATA")
    return path


def kws() -> tuple[np.ndarray, np.ndarray]:
    """1,000 keywords as int8 features [1000, 49, 10, 1], and their labels."""
    files = sorted(data_file("kws", "eval").glob("*.bin"))
    raw = np.stack([np.frombuffer(file.read_bytes(), np.int8).reshape(49, 10, 1) for file in files])
    return raw, np.array([int(file.stem.rpartition("_")[2]) for file in files])


def kws_float(raw: np.ndarray) -> np.ndarray:
    """What the float model takes."""
    return (raw.astype(np.float32) - 83) * np.float32(0.5847029)


def blobs(count: int = 300, classes: int = 4, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre a class, far enough apart that a linear layer knows them all."""
    generator = np.random.default_rng(3)
    labels = np.arange(count) % classes
    centres = np.eye(classes, width, dtype=np.float32) * 4
    return centres[labels] + generator.normal(0, 0.5, (count, width)).astype(np.float32), labels


def classifier(width: int = 16, classes: int = 4, hidden: int = 64) -> bytes:
    """Knows `blobs`: the hidden layer is a random rotation that the last layer undoes."""
    generator = np.random.default_rng(5)
    rotation = np.linalg.qr(generator.normal(size=(hidden, hidden)))[0][:width].astype(np.float32)
    constants = [
        numpy_helper.from_array(rotation, "w0"),
        numpy_helper.from_array(np.ascontiguousarray(rotation.T[:, :classes]), "w1"),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["y"])]
    return save(nodes, [("x", TensorProto.FLOAT, ["n", width])], [("y", TensorProto.FLOAT, ["n", classes])], constants)


def save(nodes, inputs, outputs, constants=()) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        list(constants),
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
