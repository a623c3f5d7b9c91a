"""The reference: what the kernels on a board compute, bit for bit, for many rows at a time.

It runs the blob in its arena, so that a fault of the plan shows here as well. Sums are made in float64, which is exact
for them (the compiler keeps them below 2**31) and many times as fast as numpy's integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrt.inference.micro.blob import Blob, Code, Op
from msrt.inference.micro.fixed import requantise

__all__ = ["interpret"]

Array = NDArray[Any]


def interpret(blob: Blob, rows: NDArray[np.int8]) -> NDArray[np.int8]:
    """Inputs int8 [rows, input bytes] to outputs int8 [rows, output bytes]."""
    arena = np.zeros((len(rows), blob.arena), np.int8)
    offset, size = blob.input
    arena[:, offset : offset + size] = rows.reshape(len(rows), size)
    for op in blob.ops:
        shape = (len(rows), op.in_h, op.in_w, op.in_c)
        x = arena[:, op.first : op.first + op.in_bytes].reshape(shape).astype(np.int64)
        y = _run(blob, op, x, arena)
        arena[:, op.out : op.out + op.out_bytes] = y.reshape(len(rows), -1)
    offset, size = blob.output
    return arena[:, offset : offset + size].copy()


def _run(blob: Blob, op: Op, x: Array, arena: Array) -> Array:
    match op.code:
        case Code.DENSE:
            weights = blob.array(op.weights, np.int8, op.out_c * op.in_bytes).reshape(op.out_c, -1)
            flat = (x.reshape(len(x), -1) - op.zero).astype(np.float64)
            return _per_channel(blob, op, (flat @ weights.T.astype(np.float64)).astype(np.int64))
        case Code.CONV | Code.DEPTHWISE:
            return _per_channel(blob, op, _convolved(blob, op, x))
        case Code.AVERAGE_POOL:
            return _average(op, x)
        case Code.MAX_POOL:
            padded = _padded(op, x, -128)
            best = np.max([_tap(op, padded, i, j) for i in range(op.kernel_h) for j in range(op.kernel_w)], axis=0)
            return _clipped(op, best)
        case Code.ADD:
            other = arena[:, op.second : op.second + op.in_bytes].reshape(x.shape).astype(np.int64)
            total = (x - op.zero) * op.multiplier + (other - op.second_zero) * op.second_multiplier
            return requantise(total, op.shift, op.out_zero, op.low, op.high)
        case Code.RESCALE:
            return requantise((x - op.zero) * op.multiplier, op.shift, op.out_zero, op.low, op.high)
    raise AssertionError(op.code)


def _per_channel(blob: Blob, op: Op, total: Array) -> Array:
    bias, multipliers, shifts = (
        blob.array(at, np.int32, op.out_c).astype(np.int64) for at in (op.bias, op.multipliers, op.shifts)
    )
    return requantise((total + bias) * multipliers, shifts, op.out_zero, op.low, op.high)


def _padded(op: Op, x: Array, value: int) -> Array:
    bottom = max(0, (op.out_h - 1) * op.stride_h + (op.kernel_h - 1) * op.dilation_h + 1 - op.pad_top - op.in_h)
    right = max(0, (op.out_w - 1) * op.stride_w + (op.kernel_w - 1) * op.dilation_w + 1 - op.pad_left - op.in_w)
    return np.pad(x, ((0, 0), (op.pad_top, bottom), (op.pad_left, right), (0, 0)), constant_values=value)


def _tap(op: Op, padded: Array, i: int, j: int) -> Array:
    """What one element of the window sees, for every output."""
    top, left = i * op.dilation_h, j * op.dilation_w
    rows = slice(top, top + (op.out_h - 1) * op.stride_h + 1, op.stride_h)
    return padded[:, rows, left : left + (op.out_w - 1) * op.stride_w + 1 : op.stride_w]


def _convolved(blob: Blob, op: Op, x: Array) -> Array:
    padded = (_padded(op, x, op.zero) - op.zero).astype(np.float64)
    total: Array = np.zeros((len(x), op.out_h, op.out_w, op.out_c))
    deep = op.code == Code.DEPTHWISE
    count = op.kernel_h * op.kernel_w * op.out_c * (1 if deep else op.in_c)
    weights = blob.array(op.weights, np.int8, count).astype(np.float64)
    for i in range(op.kernel_h):
        for j in range(op.kernel_w):
            seen = _tap(op, padded, i, j)
            if deep:
                times = op.out_c // op.in_c
                total += np.repeat(seen, times, axis=-1) * weights.reshape(op.kernel_h, op.kernel_w, -1)[i, j]
            else:
                total += seen @ weights.reshape(op.out_c, op.kernel_h, op.kernel_w, op.in_c)[:, i, j].T
    return total.astype(np.int64)


def _average(op: Op, x: Array) -> Array:
    """One rounding: the sum times the multiplier over (count times 2**shift), half up."""
    padded = _padded(op, x - op.zero, 0)
    inside = _padded(op, np.ones_like(x), 1 if op.count_padding else 0)
    windows = [(i, j) for i in range(op.kernel_h) for j in range(op.kernel_w)]
    total: Array = np.sum([_tap(op, padded, i, j) for i, j in windows], axis=0)
    count: Array = np.sum([_tap(op, inside, i, j) for i, j in windows], axis=0)
    divisor = count << op.shift
    found = (total * op.multiplier + (divisor >> 1)) // divisor + op.out_zero
    return _clipped(op, found)


def _clipped(op: Op, found: Array) -> Array:
    kept: Array = np.clip(found, op.low, op.high).astype(np.int8)
    return kept
