"""Each matrix as the product of two thin ones (PowerSGD, Vogels 2019), one step of power iteration a vector.

The right factor is carried to the next vector (warm start), so that successive steps approach the best approximation.
In the paper all workers reduce one left factor together; here every sender sends its own pair, for a parent adds up
what comes when it comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from msrt.buffers import Buffer
from msrt.learning.compress.codec import SPAN, Codec, finite
from msrt.learning.vector import Array, Layout, Vector

__all__ = ["PowerSgd"]


class PowerSgd(Codec):
    """Tensors of two or more axes as matrices of first axis x rest where that saves; all else as float32."""

    def __init__(self, name: str, layout: Layout, rank: int) -> None:
        super().__init__(name, layout)
        self.matrices: list[tuple[int, int, int, int]] = []
        """(start, rows, columns, rank) of what is factored."""
        self.plain: list[slice] = []
        at = 0
        for slot in layout.slots:
            rows = slot.shape[0] if len(slot.shape) > 1 else 1
            columns = slot.size // max(rows, 1)
            thin = min(rank, rows, columns)
            if thin and thin * (rows + columns) < slot.size:
                self.matrices.append((at, rows, columns, thin))
            else:
                self.plain.append(slice(at, at + slot.size))
            at += slot.size
        self.memory_size = sum(columns * thin for _, _, columns, thin in self.matrices)
        self._elements = sum((rows + columns) * thin for _, rows, columns, thin in self.matrices)
        self._elements += sum(part.stop - part.start for part in self.plain)

    @property
    def bytes(self) -> int:
        return 4 * self._elements

    def first_memory(self) -> Vector:
        """Random right factors, the same ones at every sender."""
        return np.random.Generator(np.random.SFC64(0)).standard_normal(self.memory_size, np.float32)

    def _factors(self, values: Vector) -> Iterator[tuple[slice, Vector, Vector]]:
        """(where in the vector, left [rows, rank], right [columns, rank]) of each matrix, as views of a payload."""
        at = 0
        for start, rows, columns, thin in self.matrices:
            middle, end = at + rows * thin, at + (rows + columns) * thin
            left, right = values[at:middle].reshape(rows, thin), values[middle:end].reshape(columns, thin)
            yield slice(start, start + rows * columns), left, right
            at = end

    def _rest(self, values: Vector) -> Iterator[tuple[slice, Vector]]:
        at = self._elements - sum(part.stop - part.start for part in self.plain)
        for part in self.plain:
            length = part.stop - part.start
            yield part, values[at : at + length]
            at += length

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        del rng
        finite(flat)
        values, at = np.frombuffer(payload, "<f4"), 0
        for where, left, right in self._factors(values):
            matrix = flat[where].reshape(left.shape[0], right.shape[0])
            warm = memory[at : at + right.size].reshape(right.shape)
            left[...] = _orthonormal(matrix @ warm)
            np.matmul(matrix.T, left, out=right)
            warm[...] = right
            at += right.size
            if residual is not None:
                np.subtract(matrix, left @ right.T, out=residual[where].reshape(matrix.shape))
        for where, part in self._rest(values):
            part[...] = flat[where]
            if residual is not None:
                residual[where] = 0

    def squares(self, payload: Buffer) -> float:
        values = np.frombuffer(payload, "<f4")
        if not np.isfinite(values).all():
            return math.inf
        total = math.fsum(float(np.square(part, dtype=np.float64).sum()) for _, part in self._rest(values))
        for _, left, right in self._factors(values):  # |L R'|^2 = trace(L'L R'R)
            a, b = left.astype(np.float64), right.astype(np.float64)
            total += float(np.sum((a.T @ a) * (b.T @ b)))
        return max(total, 0.0)

    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        values, factor = np.frombuffer(payload, "<f4"), np.float32(weight)
        for where, left, right in self._factors(values):
            matrix, turned = target[where].reshape(left.shape[0], right.shape[0]), np.ascontiguousarray(right.T)
            step = max(1, SPAN // max(right.shape[0], 1))
            for start in range(0, left.shape[0], step):
                matrix[start : start + step] += (left[start : start + step] * factor) @ turned
        for where, part in self._rest(values):
            target[where] += part * factor

    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        values, stop = np.frombuffer(payload, "<f4"), start + out.size
        for where, left, right in self._factors(values):
            first, last = max(where.start, start), min(where.stop, stop)
            if first < last:
                columns = right.shape[0]
                top, bottom = (first - where.start) // columns, -(-(last - where.start) // columns)
                rows = (left[top:bottom] @ right.T).reshape(-1)
                skipped = first - where.start - top * columns
                out[first - start : last - start] = rows[skipped : skipped + last - first]
        for where, part in self._rest(values):
            first, last = max(where.start, start), min(where.stop, stop)
            if first < last:
                out[first - start : last - start] = part[first - where.start : last - where.start]


def _orthonormal(columns: Vector) -> Vector:
    """An orthonormal basis of the columns (QR). All zeros stay zeros."""
    if not columns.any():
        return columns
    basis: Array = np.linalg.qr(columns)[0]
    return basis.astype(np.float32, copy=False)
