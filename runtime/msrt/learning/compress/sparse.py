"""The largest elements alone (top-k; with error feedback it converges: Stich 2018)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.compress.codec import Codec, finite
from msrt.learning.vector import Layout, Vector

__all__ = ["TopK"]


class TopK(Codec):
    """Indices as ascending u32, then their values as float32: 8 bytes for each element that is kept."""

    def __init__(self, name: str, layout: Layout, share: float) -> None:
        super().__init__(name, layout)
        self.kept = min(self.size, max(1, round(share * self.size)))

    @property
    def bytes(self) -> int:
        return 8 * self.kept

    def _split(self, payload: Buffer) -> tuple[NDArray[np.uint32], Vector]:
        return np.frombuffer(payload, "<u4", self.kept), np.frombuffer(payload, "<f4", self.kept, 4 * self.kept)

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        del memory, rng
        finite(flat)
        chosen = np.argpartition(np.abs(flat), self.size - self.kept)[self.size - self.kept :]
        chosen.sort()
        indices, values = self._split(payload)
        indices[:], values[:] = chosen, flat[chosen]
        if residual is not None:
            if residual is not flat:
                np.copyto(residual, flat)
            residual[chosen] = 0

    def squares(self, payload: Buffer) -> float:
        indices, values = self._split(payload)
        if (indices >= self.size).any() or (np.diff(indices.astype(np.int64)) <= 0).any():
            raise BadUpdate(f"an update as {self.name} whose indices do not ascend within {self.size} parameters")
        wide = values.astype(np.float64)
        found = float(np.dot(wide, wide))
        return found if math.isfinite(found) else math.inf

    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        indices, values = self._split(payload)
        target[indices] += values * np.float32(weight)

    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        indices, values = self._split(payload)
        first, last = np.searchsorted(indices, (start, start + out.size))
        out.fill(0)
        out[indices[first:last] - np.uint32(start)] = values[first:last]
