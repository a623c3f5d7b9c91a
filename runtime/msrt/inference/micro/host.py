"""What stays with whoever asks a board: the caller's tensors to the board's bytes, and its answer back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidTensor
from msrt.inference.micro.blob import Blob

__all__ = ["from_board", "to_board"]

_DTYPES = {"INT8": np.int8, "UINT8": np.uint8}


def to_board(blob: Blob, rows: NDArray[Any]) -> NDArray[np.int8]:
    """Inputs as the ONNX file takes them, to int8 [rows, input bytes]. Raises InvalidTensor for NaN and infinity."""
    note = blob.note
    if note.quantised_input == "UINT8":
        numbers = (rows.astype(np.int16) - 128).astype(np.int8)
    elif note.quantised_input:
        numbers = rows
    else:
        if not np.isfinite(rows).all():
            raise InvalidTensor(f"{note.input.name!r} holds NaN or infinity, which no int8 stands for")
        scaled = np.rint(rows / np.float32(blob.in_scale)) + blob.in_zero  # half to even, as QuantizeLinear
        numbers = np.clip(scaled, -128, 127).astype(np.int8)
    return np.ascontiguousarray(numbers.transpose(note.order)).reshape(len(rows), -1)


def from_board(blob: Blob, rows: NDArray[np.int8]) -> NDArray[Any]:
    """int8 [rows, output bytes] to the output as the ONNX file gives it: softmax and the last quantiser included."""
    note = blob.note
    shape = tuple(len(rows) if axis == 0 else size for axis, size in enumerate(note.output.shape))
    stored = rows.reshape([shape[axis] for axis in note.out_order]) if len(note.out_order) == len(shape) else rows
    turned = stored.transpose(np.argsort(note.out_order)) if stored is not rows else rows
    numbers = turned.reshape(shape)
    if not note.softmax and note.quantised_output:
        return numbers if note.quantised_output == "INT8" else (numbers.astype(np.int16) + 128).astype(np.uint8)
    real = (numbers.astype(np.float32) - blob.out_zero) * np.float32(blob.out_scale)
    if not note.softmax:
        return real
    power = np.exp(real - real.max(axis=-1, keepdims=True))
    found: NDArray[Any] = (power / power.sum(axis=-1, keepdims=True)).astype(np.float32)
    if not note.out_scale:
        return found
    return _rounded(blob, found)


def _rounded(blob: Blob, found: NDArray[Any]) -> NDArray[Any]:
    """Through the quantiser behind the softmax."""
    note = blob.note
    dtype = _DTYPES.get(note.quantised_output)
    low, high = (0, 255) if note.out_unsigned else (-128, 127)
    scaled = np.clip(np.rint(found / np.float32(note.out_scale)) + note.out_zero, low, high)
    real: NDArray[Any] = ((scaled - note.out_zero) * np.float32(note.out_scale)).astype(np.float32)
    return real if dtype is None else scaled.astype(dtype)
