"""Graphs as the registry's quantiser makes them, and what onnxruntime says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from msrt.inference.micro import compile_graph
from msrt.inference.micro.host import from_board, to_board
from msrt.inference.micro.interpret import interpret
from msrt_cloud.micro import graph_of
from msrt_cloud.quantise import RECIPES, float_copy, quantise
from msrt_cloud.samples import Samples
from tests.runtime.inference.models import model_of


def convolutions(seed: int = 0) -> bytes:
    """A small image classifier: padding, strides, a depthwise layer, both pools, a residual, clip, softmax."""
    generator = np.random.default_rng(seed)
    constants = []

    def weight(name, *shape):
        size = np.prod(shape[1:]) if len(shape) > 1 else 10
        constants.append(
            numpy_helper.from_array((generator.normal(size=shape) / np.sqrt(size)).astype(np.float32), name)
        )
        return name

    def conv(x, y, out, into, kernel, **more):
        names = [x, weight(f"{y}w", out, into, *kernel), weight(f"{y}b", out)]
        return helper.make_node("Conv", names, [y], kernel_shape=kernel, **more)

    constants += [numpy_helper.from_array(np.float32(end), name) for name, end in (("low", 0.0), ("high", 2.5))]
    nodes = [
        conv("x", "a", 8, 2, (3, 3), pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("b", "c", 8, 1, (3, 3), pads=[1, 1, 1, 1], group=8),
        helper.make_node("Clip", ["c", "low", "high"], ["d"]),
        helper.make_node("Add", ["b", "d"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("f", "g", 6, 8, (2, 3), strides=[1, 2], dilations=[2, 1]),
        helper.make_node("AveragePool", ["g"], ["h"], kernel_shape=[2, 1], strides=[1, 1]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", weight("jw", 5, 12), weight("jb", 5)], ["j"], transB=1),
        helper.make_node("Softmax", ["j"], ["y"], axis=1),
    ]
    ends = [("x", TensorProto.FLOAT, ["n", 2, 10, 8])], [("y", TensorProto.FLOAT, ["n", 5])]
    return model_of(nodes, *ends, constants).SerializeToString()


def quantised(file: bytes, rows: np.ndarray, folder: Path) -> bytes:
    """The int8 variant, made as at a push."""
    (folder / "given.onnx").write_bytes(file)
    ready, _ = float_copy(folder / "given.onnx", folder)
    return quantise(ready, folder / "int8.onnx", RECIPES[0], Samples({"x": rows})).read_bytes()


def compiled(file: bytes):
    """The blob of an int8 file."""
    return compile_graph(graph_of(onnx.load_model_from_string(file)))


def both(file: bytes, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What onnxruntime answers, and what a board would."""
    session = ort.InferenceSession(file)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: rows})
    blob = compiled(file)
    return wanted, from_board(blob, interpret(blob, to_board(blob, rows)))
