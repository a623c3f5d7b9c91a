"""A flat vector as a payload, and what the payload left out, remembered for the next one.

fp32: the elements, little endian. int8: per block of BLOCK elements one float32 scale (all scales first), then one
signed byte an element; value = scale * code. Length follows from the number of elements, so there is no header.
1 + 4/1024 bytes an element: 25.1 % of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer, joined
from msrt.errors import BadUpdate, Corrupt
from msrt.learning.vector import Vector

__all__ = ["BLOCK", "ENCODINGS", "ErrorFeedback", "decode", "encode", "payload_size", "spans", "split"]

ENCODINGS: Final = ("fp32", "int8")
BLOCK: Final = 1024
SPAN: Final = 128 * BLOCK
"""Elements handled at once: 512 KiB of float32 scratch stays in the cache."""
PEAK: Final = 127.0
TINY: Final = 1e-30
"""A block whose largest element is below this is sent as zeros: its scale would be subnormal."""


def payload_size(encoding: str, size: int) -> int:
    """Bytes of a payload for so many elements. Raises BadUpdate for an unknown encoding."""
    if encoding == "fp32":
        return 4 * size
    if encoding == "int8":
        return 4 * -(-size // BLOCK) + size
    raise BadUpdate(f"unknown encoding {encoding!r}", hint=f"use one of {', '.join(ENCODINGS)}")


def spans(size: int) -> Iterator[tuple[int, int, int]]:
    """Cut `size` elements into (start, rows, width): whole blocks by the span, then what is left as one short row."""
    whole = size - size % BLOCK
    for start in range(0, whole, SPAN):
        yield start, (min(start + SPAN, whole) - start) // BLOCK, BLOCK
    if whole < size:
        yield whole, 1, size - whole


def split(payload: Buffer, size: int) -> tuple[Vector, NDArray[np.int8]]:
    """Scales and codes of an int8 payload, without a copy. Raises BadUpdate when its length is wrong."""
    blocks = -(-size // BLOCK)
    if len(payload) != payload_size("int8", size):
        raise BadUpdate(f"an int8 payload of {len(payload)} bytes for {size} parameters")
    return np.frombuffer(payload, "<f4", blocks), np.frombuffer(payload, np.int8, size, 4 * blocks)


def encode(flat: Vector, encoding: str) -> Buffer:
    """The vector as a payload. Raises BadUpdate when it holds NaN or infinity."""
    if encoding == "fp32":
        body = np.ascontiguousarray(flat, "<f4")
        if not np.isfinite(body).all():
            raise BadUpdate("the update is not finite", hint="lower the learning rate")
        return joined((body.data.cast("B"),))
    return _quantised(flat, encoding, None)


def _quantised(flat: Vector, encoding: str, residual: Vector | None) -> memoryview:
    """Scales and codes of `flat`; what rounding left out is written into `residual` (may be `flat`)."""
    payload = np.empty(payload_size(encoding, flat.size), np.uint8)
    blocks = -(-flat.size // BLOCK)
    scales = payload[: 4 * blocks].view("<f4")
    codes = payload[4 * blocks :].view(np.int8)
    scratch = np.empty(min(max(flat.size, 1), SPAN), np.float32)
    for start, rows, width in spans(flat.size):
        stop = start + rows * width
        first = start // BLOCK
        source = flat[start:stop].reshape(rows, width)
        part = scratch[: rows * width].reshape(rows, width)
        np.abs(source, out=part)
        peak = part.max(axis=1)
        if not np.isfinite(peak).all():
            raise BadUpdate("the update is not finite", hint="lower the learning rate")
        scale = np.where(peak > TINY, peak / np.float32(PEAK), np.float32(0))
        scales[first : first + rows] = scale
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        np.multiply(source, inverse[:, None], out=part)
        np.rint(part, out=part)
        codes[start:stop].reshape(rows, width)[...] = part
        if residual is not None:
            np.multiply(part, scale[:, None], out=part)
            np.subtract(source, part, out=residual[start:stop].reshape(rows, width))
    payload.flags.writeable = False
    return payload.data


def decode(payload: Buffer, encoding: str, size: int) -> Vector:
    """The vector a payload stands for. Raises BadUpdate when its length is wrong."""
    if len(payload) != payload_size(encoding, size):
        raise BadUpdate(f"a payload of {len(payload)} bytes for {size} parameters as {encoding}")
    if encoding == "fp32":
        return np.frombuffer(payload, "<f4").copy()
    scales, codes = split(payload, size)
    flat = codes.astype(np.float32)
    for start, rows, width in spans(size):
        part = flat[start : start + rows * width].reshape(rows, width)
        part *= scales[start // BLOCK : start // BLOCK + rows, None]
    return flat


class ErrorFeedback:
    """Keeps what compression left out and adds it to the next vector. One per sender and job.

    The sender saves it with its checkpoint (`save`, `load`): without it a biased compressor drifts.
    A residual of a round that was not counted stays: it is bounded by half a code of each block.
    """

    def __init__(self, size: int) -> None:
        self.residual: Vector = np.zeros(size, np.float32)

    def encode(self, flat: Vector, encoding: str) -> Buffer:
        """The payload of `flat` plus what was left out before. On BadUpdate the residual stays as it was."""
        if flat.size != self.residual.size:
            raise BadUpdate(f"an update of {flat.size} elements after one of {self.residual.size}")
        total = flat + self.residual
        if encoding == "fp32":
            payload = encode(total, encoding)
            self.residual = np.zeros_like(total)
            return payload
        payload = _quantised(total, encoding, total)
        self.residual = total
        return payload

    def save(self) -> bytes:
        return self.residual.astype("<f4", copy=False).tobytes()

    @classmethod
    def load(cls, data: Buffer, size: int) -> ErrorFeedback:
        """Raises Corrupt when the bytes are not those of a residual of this size."""
        feedback = cls(size)
        if len(data) != 4 * size:
            raise Corrupt(f"an error feedback of {len(data)} bytes for {size} parameters")
        residual = np.frombuffer(data, "<f4").copy()
        if not np.isfinite(residual).all():
            raise Corrupt("an error feedback that is not finite")
        feedback.residual = residual
        return feedback
