"""Codes of one byte or one bit that share a float32 scale a block. All scales lie first, then the codes."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.learning.compress.codec import BLOCK, Codec, finite, rows_of, scratch
from msrt.learning.vector import Vector

__all__ = ["Int8", "Sign", "lift"]

PEAK: Final = 127.0
TINY: Final = 1e-30
"""A block whose largest element is below this is sent as zeros: its scale would be subnormal."""


class _Blocks(Codec):
    local = True

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK)

    def _split(self, payload: Buffer, dtype: Any) -> tuple[Vector, NDArray[Any]]:
        """Scales and codes, without a copy."""
        return np.frombuffer(payload, "<f4", self.blocks), np.frombuffer(payload, dtype, offset=4 * self.blocks)

    @abc.abstractmethod
    def _widened(self, payload: Buffer, factor: np.float32) -> Callable[[int, Vector], None]:
        """What writes the elements from a multiple of BLOCK on, times `factor`, into a vector."""

    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        widen, room = self._widened(payload, np.float32(weight)), scratch(self.size)
        for start, rows, width in rows_of(self.size):
            part = room[: rows * width]
            widen(start, part)
            np.add(target[start : start + part.size], part, out=target[start : start + part.size])

    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        widen = self._widened(payload, np.float32(1))
        for at, rows, width in rows_of(out.size):
            widen(start + at, out[at : at + rows * width])


class Int8(_Blocks):
    """value = scale * code, the code rounded up or down at random so that its mean is the value (QSGD, Alistarh 2017).

    So it is unbiased and remembers nothing. 1 + 4/1024 bytes an element: 25.1 % of float32. The dice have 256 sides:
    what bias is left is below 1/512 of a code.
    """

    biased = False

    @property
    def bytes(self) -> int:
        return 4 * self.blocks + self.size

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        del memory
        scales, codes = self._split(payload, np.int8)
        room = scratch(self.size)
        for start, rows, width in rows_of(self.size):
            stop, first = start + rows * width, start // BLOCK
            source = flat[start:stop].reshape(rows, width)
            part = room[: rows * width].reshape(rows, width)
            peak = np.maximum(source.max(axis=1), -source.min(axis=1))
            finite(peak)
            scale = scales[first : first + rows]
            scale[...] = np.where(peak > TINY, peak / np.float32(PEAK), np.float32(0))
            inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
            np.multiply(source, inverse[:, None], out=part)
            np.add(part, lift(rng, rows * width).reshape(rows, width), out=part)
            np.floor(part, out=part)
            np.copyto(codes[start:stop].reshape(rows, width), part, casting="unsafe")
            if residual is not None:
                np.multiply(part, scale[:, None], out=part)
                np.subtract(source, part, out=residual[start:stop].reshape(rows, width))

    def squares(self, payload: Buffer) -> float:
        scales, codes = self._split(payload, np.int8)
        room, total = scratch(self.size), 0.0
        for start, rows, width in rows_of(self.size):
            part = room[: rows * width]
            np.copyto(part, codes[start : start + rows * width])
            grid = part.reshape(rows, width)
            scale = scales[start // BLOCK : start // BLOCK + rows].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                total += float(np.dot(np.einsum("ij,ij->i", grid, grid).astype(np.float64), scale * scale))
        return total

    def _widened(self, payload: Buffer, factor: np.float32) -> Callable[[int, Vector], None]:
        scales, codes = self._split(payload, np.int8)

        def widen(start: int, out: Vector) -> None:
            np.copyto(out, codes[start : start + out.size])
            _scale(scales, factor, start, out)

        return widen


def _scale(scales: Vector, factor: np.float32, start: int, out: Vector) -> None:
    """Codes times the scale of their block and the factor, in place; whole blocks, or one that is short."""
    rows = -(-out.size // BLOCK)
    grid = out.reshape(rows, -1)
    np.multiply(grid, (scales[start // BLOCK : start // BLOCK + rows] * factor)[:, None], out=grid)


def lift(rng: np.random.Generator, count: int) -> Vector:
    """Evenly spread over 0 .. 1, both ends left out: one throw of 64 bits gives eight of them."""
    dice = rng.bit_generator.random_raw(-(-count // 8)).view(np.uint8)[:count]
    lift: Vector = dice.astype(np.float32)
    np.add(lift, np.float32(0.5), out=lift)
    np.multiply(lift, np.float32(1 / 256), out=lift)
    return lift


class Sign(_Blocks):
    """One bit an element and the block's mean magnitude (1-bit SGD, Seide 2014; EF-signSGD, Karimireddy 2019).

    1/8 + 4/1024 bytes an element: a thirty-first of float32. Useless without error feedback.
    """

    @property
    def bytes(self) -> int:
        return 4 * self.blocks + -(-self.size // 8)

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        del memory, rng
        scales, codes = self._split(payload, np.uint8)
        room = scratch(self.size)
        for start, rows, width in rows_of(self.size):
            stop, first = start + rows * width, start // BLOCK
            source = flat[start:stop].reshape(rows, width)
            part = room[: rows * width].reshape(rows, width)
            np.abs(source, out=part)
            scale = scales[first : first + rows]
            scale[...] = part.mean(axis=1)
            finite(scale)
            positive = source >= 0
            packed = np.packbits(positive.reshape(-1))
            codes[start // 8 : start // 8 + packed.size] = packed
            if residual is not None:
                np.copyto(part, np.where(positive, scale[:, None], -scale[:, None]))
                np.subtract(source, part, out=residual[start:stop].reshape(rows, width))

    def squares(self, payload: Buffer) -> float:
        scales, _ = self._split(payload, np.uint8)
        widths = np.full(self.blocks, BLOCK, np.float64)
        if self.size % BLOCK:
            widths[-1] = self.size % BLOCK
        found = float(np.dot(np.square(scales.astype(np.float64)), widths))
        return found if math.isfinite(found) else math.inf

    def _widened(self, payload: Buffer, factor: np.float32) -> Callable[[int, Vector], None]:
        scales, codes = self._split(payload, np.uint8)

        def widen(start: int, out: Vector) -> None:
            np.copyto(out, np.unpackbits(codes[start // 8 : start // 8 + -(-out.size // 8)], count=out.size))
            np.multiply(out, np.float32(2), out=out)
            np.subtract(out, np.float32(1), out=out)
            _scale(scales, factor, start, out)

        return widen
