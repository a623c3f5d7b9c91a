"""Every element, rounded to nearest: the error is at most 2^-11 (fp16) or 2^-8 (bf16) of an element and has no
direction, so nothing is remembered.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.compress.codec import Codec, finite, scratch, slices
from msrt.learning.vector import Vector

__all__ = ["Bfloat16", "Float16", "Float32"]

Raw: TypeAlias = NDArray[Any]


class _Dense(Codec):
    biased = False
    local = True
    dtype: ClassVar[str]

    @property
    def bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.size

    @abc.abstractmethod
    def _narrow(self, values: Vector) -> Raw:
        """As they travel."""

    @abc.abstractmethod
    def _widen(self, values: Raw, out: Vector) -> Vector:
        """As float32; may be written into `out`."""

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        del memory, rng
        target, part = np.frombuffer(payload, self.dtype), scratch(self.size)
        for span in slices(self.size):
            finite(flat[span])
            target[span] = self._narrow(flat[span])
            if residual is not None:
                room = part[: span.stop - span.start]
                np.subtract(flat[span], self._widen(target[span], room), out=residual[span])

    def squares(self, payload: Buffer) -> float:
        source, part = np.frombuffer(payload, self.dtype), scratch(self.size)
        spans = (self._widen(source[span], part[: span.stop - span.start]) for span in slices(self.size))
        with np.errstate(over="ignore", invalid="ignore"):
            squares = [float(np.dot(values, values)) for values in spans]
        return math.fsum(squares) if all(map(math.isfinite, squares)) else math.inf

    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        source, part = np.frombuffer(payload, self.dtype), scratch(self.size)
        factor = np.float32(weight)
        for span in slices(self.size):
            room = part[: span.stop - span.start]
            np.multiply(self._widen(source[span], room), factor, out=room)
            np.add(target[span], room, out=target[span])

    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        np.copyto(out, self._widen(np.frombuffer(payload, self.dtype)[start : start + out.size], out))


class Float32(_Dense):
    """The elements, little endian."""

    dtype = "<f4"

    def as_it_is(self, flat: Vector) -> memoryview | None:
        if flat.dtype != np.dtype(self.dtype) or not flat.flags.c_contiguous:
            return None
        for span in slices(self.size):
            finite(flat[span])
        return flat.data.cast("B").toreadonly()

    def _narrow(self, values: Vector) -> Raw:
        return values

    def _widen(self, values: Raw, out: Vector) -> Vector:
        del out
        return values


class Float16(_Dense):
    """IEEE half precision: half the bytes."""

    dtype = "<f2"

    def _narrow(self, values: Vector) -> Raw:
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.isinf(halves).any():
            raise BadUpdate("the update has elements above 65504, too large for fp16", hint='compression = "bf16"')
        return halves

    def _widen(self, values: Raw, out: Vector) -> Vector:
        np.copyto(out, values)
        return out


class Bfloat16(_Dense):
    """The upper half of a float32: half the bytes, and its whole range."""

    dtype = "<u2"

    def _narrow(self, values: Vector) -> Raw:
        bits = np.ascontiguousarray(values, "<f4").view(np.uint32)
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))  # ties to even
        upper = (rounded >> np.uint32(16)).astype(np.uint16)
        if ((upper & np.uint16(0x7F80)) == np.uint16(0x7F80)).any():
            raise BadUpdate("the update has elements too large for bf16", hint="lower the learning rate")
        return upper

    def _widen(self, values: Raw, out: Vector) -> Vector:
        bits = out.view(np.uint32)
        np.copyto(bits, values)
        np.left_shift(bits, np.uint32(16), out=bits)
        return out
