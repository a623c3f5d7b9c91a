"""An operator gets its record: multipliers, biases, clamps as integers, now that the scale of its result is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidModel
from msrt.inference.micro.blob import Code, Op
from msrt.inference.micro.fixed import fixed, fixed_pair
from msrt.inference.micro.graph import Node
from msrt.inference.micro.values import Layout, Pending, Quant, Tensor

__all__ = ["Sink", "emit"]

_AVERAGE_SHIFT: Final = 46
"""A count times 2**shift stays below 2**62."""


class Sink(Protocol):
    """What is written so far."""

    ops: list[tuple[Op, tuple[int, ...], int]]
    constants: bytearray

    def new(self, quant: Quant, layout: Layout) -> Tensor: ...


def emit(sink: Sink, pending: Pending, quant: Quant, node: Node) -> Tensor:
    """Append its record; the tensor that it makes. Raises InvalidModel."""
    if pending.op.code == Code.MAX_POOL and _differs(pending.sources[0].quant, quant):
        source = pending.sources[0]
        whole = emit(sink, replace(pending, low=-np.inf, high=np.inf), source.quant, node)
        size = whole.layout.size
        pending = replace(pending, op=Op(Code.RESCALE, in_c=size, out_c=size), sources=(whole,))
    try:
        op = _record(sink, pending, quant)
    except ValueError as error:
        raise InvalidModel(f"no microcontroller runs it: {pending.node}: {error}") from error
    made = sink.new(quant, pending.layout)
    sink.ops.append((op, tuple(source.number for source in pending.sources), made.number))
    return replace(made, flat=pending.flat)


def _differs(one: Quant, other: Quant) -> bool:
    return (one.scale, one.zero) != (other.scale, other.zero)


def _record(sink: Sink, pending: Pending, quant: Quant) -> Op:
    source = pending.sources[0].quant
    op = replace(pending.op, zero=source.zero, out_zero=quant.zero)
    op.low, op.high = _clamp(pending.low, quant, -128), _clamp(pending.high, quant, 127)
    ratio = float(np.float32(source.scale) / np.float32(quant.scale))
    match op.code:
        case Code.DENSE | Code.CONV | Code.DEPTHWISE:
            _constants(sink, op, pending, quant)
        case Code.AVERAGE_POOL:
            op.multiplier, op.shift = fixed(ratio)
            if op.shift > _AVERAGE_SHIFT:
                raise ValueError(f"its result is {1 / ratio:.3g} times as coarse as what it takes")
        case Code.RESCALE:
            op.multiplier, op.shift = fixed(ratio)
        case Code.ADD:
            other = pending.sources[1].quant
            op.second_zero = other.zero
            second = float(np.float32(other.scale) / np.float32(quant.scale))
            op.multiplier, op.second_multiplier, op.shift = fixed_pair(ratio, second)
    return op


def _clamp(value: float, quant: Quant, end: int) -> int:
    if not np.isfinite(value):
        return end
    return int(np.clip(np.rint(value / quant.scale) + quant.zero, -128, 127))


def _constants(sink: Sink, op: Op, pending: Pending, quant: Quant) -> None:
    assert pending.weights is not None
    (scales,) = pending.factors
    products = np.float32(pending.sources[0].quant.scale) * scales.astype(np.float32)  # as the engine computes it
    factors = (products / np.float32(quant.scale)).astype(np.float64)
    bias = np.zeros(op.out_c) if pending.bias is None else np.rint(pending.bias / products.astype(np.float64))
    axes = tuple(range(1, pending.weights.ndim))
    sums = np.abs(pending.weights.astype(np.int64)).sum(axis=(0, 1) if op.code == Code.DEPTHWISE else axes)
    if np.any(sums * 256 + np.abs(bias) >= 2**31):
        raise ValueError("its sums do not fit 32 bits")
    if not (op.pad_top or op.pad_left or _overhangs(op)):  # every tap counts: kernels need not subtract it each time
        turned = pending.weights.astype(np.int64).sum(axis=(0, 1) if op.code == Code.DEPTHWISE else axes)
        bias, op.zero = bias - op.zero * turned, 0
    pairs = [fixed(float(factor)) for factor in factors]
    op.weights = _put(sink, pending.weights.astype(np.int8))
    op.bias = _put(sink, bias.astype("<i4"))
    op.multipliers = _put(sink, np.array([pair[0] for pair in pairs], "<i4"))
    op.shifts = _put(sink, np.array([pair[1] for pair in pairs], "<i4"))


def _overhangs(op: Op) -> bool:
    """Whether windows reach over the lower or right end."""
    down = (op.out_h - 1) * op.stride_h + (op.kernel_h - 1) * op.dilation_h + 1
    right = (op.out_w - 1) * op.stride_w + (op.kernel_w - 1) * op.dilation_w + 1
    return op.code != Code.DENSE and (down > op.in_h or right > op.in_w)


def _put(sink: Sink, array: NDArray[Any]) -> int:
    """Its offset among the constants."""
    at = len(sink.constants)
    data = np.ascontiguousarray(array).tobytes()
    sink.constants += data + bytes(-len(data) % 4)
    return at
