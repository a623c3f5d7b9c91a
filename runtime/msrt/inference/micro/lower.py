"""From a graph of quantisers, dequantisers and operators between them (static QDQ) to the operators of a blob.

An operator of floats whose inputs were dequantised and whose result is quantised again is one operator of int8. What
lies between (a relu, a bias, a reshape) is folded into it. What has no place here is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidModel
from msrt.inference.micro.blob import Code, Op
from msrt.inference.micro.emit import emit
from msrt.inference.micro.graph import Graph, Node
from msrt.inference.micro.shapes import SHAPERS, Shaped, window
from msrt.inference.micro.values import Constant, Input, Layout, Pending, Quant, Softmax, Tensor, Value

__all__ = ["Lowered", "check_operators", "input_order", "lower"]

Array = NDArray[Any]


@dataclass
class Lowered:
    """Operators whose tensors have numbers for offsets, and the sizes of those tensors."""

    input: Tensor
    output: Tensor
    end: Value
    """What the graph's output is: the tensor itself, or a softmax of it."""
    ops: list[tuple[Op, tuple[int, ...], int]]
    """Record, inputs, output."""
    sizes: list[int]
    constants: bytes


@dataclass
class _State:
    graph: Graph
    values: dict[str, Value]
    ops: list[tuple[Op, tuple[int, ...], int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    input: Tensor | None = None

    def new(self, quant: Quant, layout: Layout) -> Tensor:
        self.sizes.append(layout.size)
        return Tensor(len(self.sizes) - 1, quant, layout)


def refuse(node: Node, why: str, hint: str = "") -> InvalidModel:
    """The error for what microcontrollers cannot do."""
    return InvalidModel(f"no microcontroller runs it: {node.shown} {why}", hint=hint)


def check_operators(graph: Graph) -> None:
    """Raises InvalidModel, naming the first operator and its node that no board has; also of a graph of floats."""
    for node in graph.nodes:
        if node.operator not in _WORKERS:
            raise refuse(node, "is not among its operators", f"they are {', '.join(sorted(_WORKERS))}")


def lower(graph: Graph) -> Lowered:
    """Raises InvalidModel, which names the operator and its node."""
    check_operators(graph)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InvalidModel(
            f"no microcontroller runs it: it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
            hint="one of each is taken there",
        )
    state = _State(graph, {name: Constant(array) for name, array in graph.constants.items()})
    spec = graph.inputs[0]
    shape = (1, *spec.shape[1:])
    if min(shape, default=0) < 1 or spec.shape[:1] not in ((-1,), (1,)):
        raise InvalidModel(f"no microcontroller runs it: {spec.name!r} has the shape {list(spec.shape)}")
    state.values[spec.name] = Input(Layout(shape, input_order(graph)))
    for node in graph.nodes:
        _step(state, node)
    end = state.values.get(graph.outputs[0].name)
    output = end.source if isinstance(end, Softmax) else end
    if not isinstance(output, Tensor) or state.input is None or end is None:
        last = graph.nodes[-1]
        raise refuse(last, "gives a result that was never quantised", "calibrate it: msrt model push --calibrate")
    return Lowered(state.input, output, end, state.ops, state.sizes, bytes(state.constants))


def input_order(graph: Graph) -> tuple[int, ...]:
    """Axes of the input as the board has them: an image's channels lie together, unless the graph turns it itself."""
    name, rank = graph.inputs[0].name, len(graph.inputs[0].shape)
    while True:
        users = [node for node in graph.nodes if name in node.inputs]
        if len(users) != 1 or users[0].operator not in ("QuantizeLinear", "DequantizeLinear", "Identity"):
            break
        name = users[0].outputs[0]
    natural = tuple(range(rank))
    moved = rank < 3 or any(user.operator not in ("Conv", "MaxPool", "AveragePool") for user in users)
    return natural if moved else (0, *natural[2:], 1)


def _step(state: _State, node: Node) -> None:
    for extra in node.outputs[1:]:
        if extra:
            raise refuse(node, f"has a second output, {extra!r}")
    state.values[node.outputs[0]] = _WORKERS[node.operator](state, node)


# --- values of a node ----------------------------------------------------------------------------------------


def _value(state: _State, node: Node, at: int) -> Value:
    found = state.values.get(node.inputs[at]) if at < len(node.inputs) else None
    if found is None:
        raise refuse(node, f"lacks its input {at}")
    return found


def _tensor(state: _State, node: Node, at: int) -> Tensor:
    found = _value(state, node, at)
    if not isinstance(found, Tensor) or not found.floating:
        raise refuse(
            node, f"takes {node.inputs[at]!r}, which is not quantised", "calibrate: msrt model push --calibrate"
        )
    return found


def _constant(state: _State, node: Node, at: int) -> Constant:
    found = _value(state, node, at)
    if not isinstance(found, Constant):
        raise refuse(node, f"takes {node.inputs[at]!r}, which is not constant")
    return found


def _real(constant: Constant) -> Array:
    """Its numbers as floats."""
    if constant.scale is None:
        return constant.array.astype(np.float64)
    zero = 0 if constant.zero is None else _along(constant.zero, constant)
    return (constant.array.astype(np.float64) - zero) * _along(constant.scale, constant)


def _along(values: Array, constant: Constant) -> Array:
    if values.size <= 1:
        return values.astype(np.float64).reshape(())
    shape = [1] * constant.array.ndim
    shape[constant.axis] = -1
    return values.astype(np.float64).reshape(shape)


def _quant(state: _State, node: Node) -> Quant:
    """What a quantiser says: one scale and zero point."""
    scale, zero = _constant(state, node, 1).array, np.zeros((), np.uint8)
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = _constant(state, node, 2).array
    if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        raise refuse(node, f"quantises to {zero.dtype} with {scale.size} scales", "activations are 8 bits, one scale")
    unsigned = zero.dtype == np.uint8
    value = float(scale.reshape(-1)[0])
    if not np.isfinite(value) or value <= 0:
        raise refuse(node, f"has a scale of {value}")
    return Quant(value, int(zero.reshape(-1)[0]) - (128 if unsigned else 0), unsigned)


# --- the workers, one a node ---------------------------------------------------------------------------------


def _quantise(state: _State, node: Node) -> Value:
    value, quant = _value(state, node, 0), _quant(state, node)
    if isinstance(value, Input):
        if state.input is not None:
            raise refuse(node, "quantises the input a second time")
        state.input = state.new(quant, value.layout)
        return state.input
    if isinstance(value, Softmax):
        return replace(value, quant=quant, floating=False)
    if isinstance(value, Tensor):
        if value.quant == quant or (value.quant.scale, value.quant.zero) == (quant.scale, quant.zero):
            return replace(value, quant=quant, floating=False)
        value = _rescale(value, node)
    if isinstance(value, Pending):
        return emit(state, value, quant, node)
    raise refuse(node, "quantises a constant")


def _dequantise(state: _State, node: Node) -> Value:
    value = _value(state, node, 0)
    if isinstance(value, Constant):
        zero = _constant(state, node, 2).array if len(node.inputs) > 2 and node.inputs[2] else None
        scale = _constant(state, node, 1).array
        return Constant(value.array, scale, zero, int(node.attributes.get("axis", 1)))
    if isinstance(value, Input):  # the caller brings quantised numbers
        quant = _quant(state, node)
        if state.input is None:
            state.input = state.new(quant, value.layout)
        return state.input.seen(floating=True) if state.input.layout == value.layout else replace(
            state.input, layout=value.layout, floating=True
        )  # fmt: skip
    if isinstance(value, Softmax):
        return replace(value, floating=True)
    if not isinstance(value, Tensor):
        raise refuse(node, "dequantises what is not quantised")
    return value.seen(floating=True)


def _rescale(value: Tensor, node: Node) -> Pending:
    size = value.layout.size
    op = Op(Code.RESCALE, in_c=size, out_c=size)
    return Pending(op, (value,), value.layout, node.shown, value.flat)


def _clamped(state: _State, node: Node, low: float, high: float) -> Value:
    value = _value(state, node, 0)
    if isinstance(value, Tensor) and value.floating:
        value = _rescale(value, node)
    if not isinstance(value, Pending):
        raise refuse(node, f"takes {node.inputs[0]!r}, which is not quantised")
    return replace(value, low=max(low, value.low), high=min(high, value.high))


def _relu(state: _State, node: Node) -> Value:
    return _clamped(state, node, 0.0, float("inf"))


def _clip(state: _State, node: Node) -> Value:
    ends = [float(node.attributes.get("min", -np.inf)), float(node.attributes.get("max", np.inf))]
    for at in (1, 2):
        if at < len(node.inputs) and node.inputs[at]:
            ends[at - 1] = float(_real(_constant(state, node, at)).reshape(()))
    return _clamped(state, node, *ends)


def _add(state: _State, node: Node) -> Value:
    left, right = _value(state, node, 0), _value(state, node, 1)
    if isinstance(left, Constant):
        left, right = right, left
    if isinstance(left, Pending) and isinstance(right, Constant) and left.weights is not None and not left.flat:
        channels = left.op.out_c
        more = _real(right)
        axis = 1 if len(left.layout.shape) > 1 else 0
        if more.size not in (1, channels) or (
            more.size > 1 and more.shape[axis - len(left.layout.shape) :][0] != channels
        ):
            raise refuse(node, f"adds numbers of shape {list(more.shape)}")
        before = np.zeros(channels) if left.bias is None else left.bias
        return replace(left, bias=before + np.broadcast_to(more.reshape(-1), (channels,)))
    one, other = _tensor(state, node, 0), _tensor(state, node, 1)
    if one.layout != other.layout or one.flat != other.flat:
        raise refuse(node, f"adds {list(one.layout.shape)} and {list(other.layout.shape)} or other layouts")
    size = one.layout.size
    return Pending(Op(Code.ADD, in_c=size, out_c=size), (one, other), one.layout, node.shown, one.flat)


def _weights(state: _State, node: Node, at: int, axis: int) -> tuple[Array, Array]:
    """int8 weights less their zero points, and a scale for each element of `axis`."""
    constant = _constant(state, node, at)
    if constant.scale is None or constant.array.dtype not in (np.int8, np.uint8):
        raise refuse(node, "has weights that are not int8", "quantise it: msrt model push --calibrate")
    zero = np.zeros(()) if constant.zero is None else _along(constant.zero, constant)
    values = constant.array.astype(np.int64) - zero.astype(np.int64)
    if values.min(initial=0) < -128 or values.max(initial=0) > 127:
        raise refuse(node, "has weights that do not fit int8 without their zero point")
    scale = constant.scale
    if scale.size > 1 and constant.axis % constant.array.ndim != axis:
        raise refuse(node, f"has scales along axis {constant.axis} of its weights")
    channels = constant.array.shape[axis]
    return values.astype(np.int8), np.broadcast_to(scale.astype(np.float32).reshape(-1), (channels,))


def _dense(state: _State, node: Node) -> Value:
    """Gemm and MatMul: [1, in] by [in, out]."""
    source = _tensor(state, node, 0)
    attributes = node.attributes
    plain = (
        attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    )
    shape = source.layout.shape
    if not plain or len(shape) != 2:
        raise refuse(node, f"multiplies a tensor of shape {list(shape)}", "rows of numbers by constants are taken")
    turned = bool(attributes.get("transB", 0))
    weights, scales = _weights(state, node, 1, 0 if turned else 1)
    weights = weights if turned else weights.T
    out, size = weights.shape
    if size != shape[1]:
        raise refuse(node, f"has weights for {size} numbers where {shape[1]} come")
    if source.flat:  # the row lies as the tensor did that it was
        of = source.flat.of
        where = np.arange(size).reshape(of.shape).transpose(of.order).reshape(-1)
        weights = weights[:, where]
    bias = _real(_constant(state, node, 2)).reshape(-1) if len(node.inputs) > 2 and node.inputs[2] else None
    op = Op(Code.DENSE, in_c=size, out_c=out)
    bias = None if bias is None else np.broadcast_to(bias, (out,))
    return Pending(op, (source,), Layout((1, out), (0, 1)), node.shown, None, weights, bias, (scales,))


def _conv(state: _State, node: Node) -> Value:
    source = _tensor(state, node, 0)
    weights, scales = _weights(state, node, 1, 0)
    shaped = window(node, source, weights.shape[2:])
    weights = weights.reshape(*weights.shape[:2], shaped.op.kernel_h, shaped.op.kernel_w)
    group, out = int(node.attributes.get("group", 1)), weights.shape[0]
    op = replace(shaped.op, out_c=out)
    if group == 1:
        op.code, weights = Code.CONV, weights.transpose(0, 2, 3, 1)
    elif group == op.in_c:
        op.code, weights = Code.DEPTHWISE, weights.transpose(2, 3, 0, 1)
    else:
        raise refuse(node, f"has {group} groups", "1, or one a channel")
    if weights.size != op.kernel_h * op.kernel_w * out * (op.in_c if group == 1 else 1):
        raise refuse(node, f"has weights of shape {list(weights.shape)} for {op.in_c} channels")
    bias = _real(_constant(state, node, 2)).reshape(-1) if len(node.inputs) > 2 and node.inputs[2] else None
    return Pending(op, (source,), shaped.layout(out), node.shown, None, weights, bias, (scales,))


def _pool(code: Code, *, everything: bool = False) -> Callable[[_State, Node], Value]:
    def work(state: _State, node: Node) -> Value:
        source = _tensor(state, node, 0)
        kernel = source.layout.shape[2:] if everything else tuple(node.attributes["kernel_shape"])
        shaped = window(node, source, kernel)
        op = replace(shaped.op, code=code, out_c=shaped.op.in_c)
        op.count_padding = int(node.attributes.get("count_include_pad", 0))
        return Pending(op, (source,), shaped.layout(op.in_c), node.shown)

    return work


def _mean(state: _State, node: Node) -> Value:
    """Over everything but the channels: a pool over the whole."""
    source = _tensor(state, node, 0)
    axes = node.attributes.get("axes")
    if axes is None:
        axes = _constant(state, node, 1).array.reshape(-1).tolist()
    rank = len(source.layout.shape)
    if rank < 3 or sorted(axis % rank for axis in axes) != list(range(2, rank)):
        raise refuse(node, f"takes the mean over axes {list(axes)}", "over all but the channels is taken")
    shaped = window(replace(node, attributes={}), source, source.layout.shape[2:])
    channels = shaped.op.in_c
    layout = shaped.layout(channels) if node.attributes.get("keepdims", 1) else Layout((1, channels), (0, 1))
    return Pending(replace(shaped.op, code=Code.AVERAGE_POOL, out_c=channels), (source,), layout, node.shown)


def _softmax(state: _State, node: Node) -> Value:
    source = _tensor(state, node, 0)
    rank = 2 if source.flat else len(source.layout.shape)
    if int(node.attributes.get("axis", -1)) % rank != rank - 1 or rank != 2 or source.flat:
        raise refuse(node, "is not over the classes of a row")
    return Softmax(source)


def _shape(state: _State, node: Node) -> Value:
    """What only looks at the same numbers in another shape."""
    value = _value(state, node, 0)
    if isinstance(value, Constant | Softmax):
        if node.operator == "Identity":
            return value
        raise refuse(node, "gives another shape to what is not a quantised tensor")
    given = None
    if len(node.inputs) > 1 and node.inputs[1]:
        given = [int(size) for size in _constant(state, node, 1).array.reshape(-1)]
    flat = None if isinstance(value, Input) else value.flat
    shaped: Shaped = SHAPERS[node.operator](node, value.layout, flat, given)
    if isinstance(value, Input):
        if shaped.flat is not None:
            raise refuse(node, "gives the input another shape in another order")
        return Input(shaped.made)
    return replace(value, layout=shaped.made, flat=shaped.flat)


_WORKERS: Final[dict[str, Callable[[_State, Node], Value]]] = {
    "QuantizeLinear": _quantise, "DequantizeLinear": _dequantise, "Relu": _relu, "Clip": _clip, "Add": _add,
    "Gemm": _dense, "MatMul": _dense, "Conv": _conv, "MaxPool": _pool(Code.MAX_POOL),
    "AveragePool": _pool(Code.AVERAGE_POOL), "GlobalAveragePool": _pool(Code.AVERAGE_POOL, everything=True),
    "GlobalMaxPool": _pool(Code.MAX_POOL, everything=True), "ReduceMean": _mean, "Softmax": _softmax,
    **dict.fromkeys(SHAPERS, _shape),
}  # fmt: skip
