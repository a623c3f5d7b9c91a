"""An int8 ONNX file as the compiler for microcontrollers takes it. ONNX is read here; what follows needs numpy only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import onnx
from onnx import helper, numpy_helper

from msrt.errors import InvalidModel
from msrt.inference.micro import check_operators, compile_graph
from msrt.inference.micro.graph import Graph, Node
from msrt.protocol.messages import TensorSpec
from msrt_cloud.prepare import PreparedFile

__all__ = ["blob_file", "graph_of", "refuse_float"]

_OIP_NAMES: Final[dict[int, str]] = {
    onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.INT8: "INT8", onnx.TensorProto.UINT8: "UINT8",
}  # fmt: skip


def blob_file(source: Path, out: Path) -> PreparedFile:
    """Compile an int8 file into `out`. Raises InvalidModel, naming the operator and its node."""
    blob = compile_graph(graph_of(onnx.load(source)))
    target = out / "micro.bin"
    target.write_bytes(blob.data)
    return PreparedFile(
        path=str(target),
        digest=hashlib.sha256(blob.data).hexdigest(),
        size=len(blob.data),
        weight_bytes=len(blob.constants),
        latency_us=0,
        method="compiled for microcontrollers",
        flash=blob.board_bytes,
        ram=blob.arena,
    )


def refuse_float(model: onnx.ModelProto) -> InvalidModel:
    """Why a model without int8 runs on no board: an operator that is missing there, else that it is float."""
    try:
        check_operators(graph_of(model))
    except InvalidModel as error:
        return error
    return InvalidModel("no microcontroller runs it: there is no int8 of it", hint="give --calibrate")


def graph_of(model: onnx.ModelProto) -> Graph:
    """Raises InvalidModel for tensors at its ends that no board takes."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
        else:
            nodes.append(Node(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes))
    inputs = tuple(_spec(value) for value in graph.input if value.name not in constants)
    return Graph(tuple(nodes), constants, inputs, tuple(_spec(value) for value in graph.output))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = _OIP_NAMES.get(kind.elem_type)
    if dtype is None:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise InvalidModel(f"no microcontroller runs it: {value.name!r} is {name}", hint="FP32, INT8 and UINT8 are")
    return TensorSpec(value.name, dtype, tuple(dim.dim_value or -1 for dim in kind.shape.dim))
