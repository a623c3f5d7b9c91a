"""An ONNX file looked at before anyone runs it: what it takes and gives, and whether this tree can serve it.

What stands in the file is judged here with `onnx`; whether it loads and runs is asked of the engine that will serve it.
Everything here is slow and may die on a hostile file: it runs in the child process of `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from msrt.errors import InvalidModel, MsrtError
from msrt.inference.bundle import StateTensor
from msrt.inference.engine import Engine, LoadedModel
from msrt.inference.measuring import sample_inputs
from msrt.inference.model import Model
from msrt.inference.stateful import StatefulModel
from msrt.inference.tensors import NUMPY_NAMES
from msrt.protocol.messages import TensorSpec
from msrt_cloud.states import find_pairs, settle_shapes

__all__ = [
    "GraphInfo",
    "drop_unused",
    "float_bytes",
    "fold_dequantised_weights",
    "initialiser_bytes",
    "inspect",
    "is_quantised",
    "read_graph",
    "rows_are_independent",
    "validate_graph",
    "with_state",
]

SIZE_LIMIT: Final = 2**31 - 1
"""Protobuf itself holds no more, and we take no external data."""
_FREE_SIZES: Final = (1, 16, 64, 128, 256, 512, 576, 1024)
"""Tried for a free dimension that is not the batch, until the model runs; a calibration file says better."""
_STANDARD: Final = frozenset({"", "ai.onnx.ml"})
_ENGINE_OWN: Final = frozenset({"com.microsoft", "com.microsoft.nchwc"})
_QUANTISED: Final = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "QGemm"}
)
_TOLERANCE: Final = 1e-5
"""Relative to the largest output: rows that differ by more when they ride together touch each other."""


@dataclass(frozen=True)
class GraphInfo:
    """What a valid model is."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    rowwise: bool
    sample: dict[str, tuple[int, ...]]
    """Shapes it ran with."""
    quantised: bool
    parameters: int
    operators: tuple[str, ...]
    state: tuple[StateTensor, ...] = ()


def validate_graph(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> GraphInfo:
    """Read, load and run it once on zeros. `shapes`: input name to a shape known to fit (from calibration data).

    Raises InvalidModel: truncated, external data, unknown operators (by name), no inputs, does not run.
    """
    graph = read_graph(path)
    return inspect(graph, Engine().load(path.read_bytes()), shapes)


def inspect(graph: onnx.ModelProto, model: Model, shapes: dict[str, tuple[int, ...]] | None = None) -> GraphInfo:
    """What a graph that was read and loaded is; see `validate_graph`. Raises InvalidModel where it does not run."""
    sample = _find_sample(model, shapes)
    state = model.pairs
    batchable = not state and _axis0(model, free=True) and rows_are_independent(model, sample)
    return GraphInfo(
        inputs=model.inputs,
        outputs=model.outputs,
        batchable=batchable,
        rowwise=not batchable and not state and _axis0(model, free=False),
        sample=sample,
        quantised=is_quantised(graph),
        parameters=sum(prod(tensor.dims) for tensor in graph.graph.initializer),
        operators=tuple(sorted({node.op_type for node in _nodes(graph)})),
        state=state,
    )


def with_state(model: LoadedModel, given: tuple[str, ...], shapes: dict[str, tuple[int, ...]] | None = None) -> Model:
    """The model less its state, if it keeps any; see `states`. Raises InvalidModel for what was given and is none."""
    pairs = find_pairs(model, given)
    if not pairs:
        return model
    try:
        sample = _find_sample(StatefulModel(model, pairs), shapes)
        return StatefulModel(model, settle_shapes(model, pairs, sample))
    except InvalidModel:
        if given:
            raise
        return model  # the names meant something else


def read_graph(path: Path) -> onnx.ModelProto:
    """The file as protobuf, refused for what can be seen without running it. Raises InvalidModel."""
    try:
        size = path.stat().st_size
        if size > SIZE_LIMIT:
            raise InvalidModel(f"{path.name} has {size} bytes, over {SIZE_LIMIT}")
        if not size:
            raise InvalidModel(f"{path.name} is empty", hint="export it again")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InvalidModel(f"cannot read {path.name}: {error.strerror}") from error
    except DecodeError as error:
        raise InvalidModel(f"{path.name} is not an ONNX model, or a truncated one", hint="export it again") from error
    if not model.graph.node:
        raise InvalidModel(f"{path.name} holds no graph", hint="is it an ONNX model?")
    if not model.graph.input or not model.graph.output:
        raise InvalidModel(f"{path.name} has no inputs or no outputs")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InvalidModel(
                f"{path.name} keeps {tensor.name or 'a weight'} in an external file", hint="save it as a single file"
            )
    _check_operators(model, path.name)
    return model


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether its activations are quantised. Weights alone (DequantizeLinear of constants) do not count."""
    return any(node.op_type in _QUANTISED or node.op_type.startswith("QLinear") for node in _nodes(model))


def initialiser_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all its weights as stored: scales, zero points and what stayed in float included, shapes not."""
    return sum(_stored(t) for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64)


def float_bytes(model: onnx.ModelProto) -> int:
    """Bytes of its weights in float32."""
    return sum(4 * prod(t.dims) for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64)


def fold_dequantised_weights(model: onnx.ModelProto) -> None:
    """Turn DequantizeLinear of constants into float constants, in place: a quantiser needs plain weights."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input):
            model.graph.initializer.append(_dequantised(node, constants))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Forget initialisers that no node reads, in place."""
    used = {name for node in _nodes(model) for name in node.input} | {out.name for out in model.graph.output}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def rows_are_independent(model: Model, sample: dict[str, tuple[int, ...]]) -> bool:
    """Whether three rows together give what they give alone, on random inputs."""
    generator = np.random.default_rng(7)
    inputs = {}
    for spec in model.inputs:
        shape = (3, *sample[spec.name][1:])
        if spec.dtype in ("BYTES", "BF16"):  # neither can be drawn at random and held against each other
            return False
        values = generator.normal(0, 1 if spec.dtype.startswith("FP") else 20, shape)
        inputs[spec.name] = (values > 0 if spec.dtype == "BOOL" else values).astype(NUMPY_NAMES[spec.dtype])
    try:
        together = model.run(inputs)
        alone = [model.run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(3)]
    except MsrtError:
        return False
    return all(_same_rows(array, [outputs[index] for outputs in alone]) for index, array in enumerate(together))


def _same_rows(together: np.ndarray[Any, Any], alone: list[np.ndarray[Any, Any]]) -> bool:
    if together.ndim == 0 or together.shape[0] != len(alone) or any(part.shape[:1] != (1,) for part in alone):
        return False
    joined = np.concatenate(alone)
    if joined.shape != together.shape:
        return False
    if together.dtype.kind != "f":
        return bool(np.array_equal(joined, together))
    scale = float(np.abs(joined).max(initial=0.0))
    return bool(np.allclose(joined, together, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True))


def _axis0(model: Model, *, free: bool) -> bool:
    wanted = -1 if free else 1
    return all(spec.shape and spec.shape[0] == wanted for spec in (*model.inputs, *model.outputs))


def _find_sample(model: Model, shapes: dict[str, tuple[int, ...]] | None) -> dict[str, tuple[int, ...]]:
    fault: MsrtError | None = None
    for size in _FREE_SIZES:
        sample = shapes or {spec.name: _filled(spec, model.symbols[spec.name], model, size) for spec in model.inputs}
        try:
            model.run(sample_inputs(model.inputs, sample))
        except MsrtError as error:
            fault = fault or error
        else:
            return sample
        if shapes or sample == {spec.name: spec.shape for spec in model.inputs}:
            break
    text = fault.text if fault else "it has no inputs"
    raise InvalidModel(f"the model does not run on zeros: {text}", hint="give --calibrate with inputs that fit it")


def _filled(spec: TensorSpec, symbols: tuple[str, ...], model: Model, size: int) -> tuple[int, ...]:
    """The batch is 1 (the first free dimension, or one that has the name of an input's axis 0), others are `size`."""
    batch = {names[0] for names in model.symbols.values() if names} - {""}
    shape: list[int] = []
    seen = False
    for dim, symbol in zip(spec.shape, symbols, strict=True):
        if dim >= 0:
            shape.append(dim)
        elif symbol in batch or not seen:
            shape.append(1)
            seen = True
        else:
            shape.append(size)
    return tuple(shape)


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    unknown = set()
    for node in _nodes(model):
        if (node.domain, node.op_type) in local or node.domain in _ENGINE_OWN:
            continue  # the engine itself will say whether it knows its own
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in _STANDARD or not onnx.defs.has(node.op_type, domain):
            unknown.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
    if unknown:
        raise InvalidModel(
            f"{name} uses unknown operators: {', '.join(sorted(unknown))}", hint="export with standard ONNX operators"
        )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending.extend(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            graphs += (attribute.g, *attribute.graphs)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _stored(tensor: onnx.TensorProto) -> int:
    return int(prod(tensor.dims) * numpy_helper.to_array(tensor).dtype.itemsize)


def _dequantised(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> onnx.TensorProto:
    values, scale, *zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    offset = zero[0].reshape(shape) if zero and zero[0].ndim else (zero[0] if zero else np.float32(0))
    folded = (values - offset) * (scale.reshape(shape) if scale.ndim else scale)
    return numpy_helper.from_array(folded.astype(np.float32), node.output[0])
