"""A weighted mean of payloads in the memory of one vector, by blocks that stay in the cache.

Nothing is added before it is whole: `check` reads the whole payload and refuses it, `RunningSum.add` cannot fail
half-way after a check. Both are blocking numpy work that lets the GIL go: call them through `World.offload`.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

import numpy as np

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.compress import BLOCK, SPAN, payload_size, spans, split
from msrt.learning.vector import Vector, load

__all__ = ["NormGuard", "RunningSum", "check"]


MEMORY: Final = 64
"""Norms remembered to know what is usual."""
ENOUGH: Final = 3
"""Norms that must have been seen before the median means something."""


def check(payload: Buffer, encoding: str, size: int) -> float:
    """The Euclidean norm of a payload's vector. Raises BadUpdate when it is of the wrong size or not finite."""
    expected = payload_size(encoding, size)
    if len(payload) != expected:
        raise BadUpdate(f"an update of {len(payload)} bytes, expected {expected} for {size} parameters as {encoding}")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = _squares_fp32(payload) if encoding == "fp32" else _squares_int8(payload, size)
    if not math.isfinite(squares):
        raise BadUpdate("the update holds NaN, infinity or numbers too large to square")
    return math.sqrt(squares)


def _squares_fp32(payload: Buffer) -> float:
    flat = np.frombuffer(payload, "<f4")
    return math.fsum(float(np.dot(part, part)) for part in (flat[at : at + SPAN] for at in range(0, flat.size, SPAN)))


def _squares_int8(payload: Buffer, size: int) -> float:
    scales, codes = split(payload, size)
    scratch = np.empty(min(max(size, 1), SPAN), np.float32)
    total = 0.0
    for start, rows, width in spans(size):
        part = scratch[: rows * width]
        np.copyto(part, codes[start : start + rows * width])
        grid = part.reshape(rows, width)
        scale = scales[start // BLOCK : start // BLOCK + rows].astype(np.float64)
        total += float(np.dot(np.einsum("ij,ij->i", grid, grid).astype(np.float64), scale * scale))
    return total


class RunningSum:
    """Adds weighted payloads one by one; the order does not matter but for rounding."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.weight = 0.0
        self._sum: Vector = np.zeros(size, np.float32)
        self._scratch: Vector = np.empty(min(max(size, 1), SPAN), np.float32)

    def add(self, payload: Buffer, encoding: str, weight: float) -> None:
        """Add a checked payload with its weight (samples). Raises BadUpdate for a wrong length or weight."""
        if not (weight > 0 and math.isfinite(weight)):
            raise BadUpdate(f"an update with a weight of {weight}")
        if len(payload) != payload_size(encoding, self.size):
            raise BadUpdate(f"an update of {len(payload)} bytes for {self.size} parameters as {encoding}")
        if encoding == "fp32":
            self._add_fp32(np.frombuffer(payload, "<f4"), np.float32(weight))
        else:
            self._add_int8(payload, np.float32(weight))
        self.weight += weight

    def _add_fp32(self, flat: Vector, weight: np.float32) -> None:
        for start in range(0, self.size, SPAN):
            target = self._sum[start : start + SPAN]
            part = self._scratch[: target.size]
            np.multiply(flat[start : start + SPAN], weight, out=part)
            np.add(target, part, out=target)

    def _add_int8(self, payload: Buffer, weight: np.float32) -> None:
        scales, codes = split(payload, self.size)
        factors = scales * weight
        for start, rows, width in spans(self.size):
            part = self._scratch[: rows * width]
            np.copyto(part, codes[start : start + rows * width])
            grid = part.reshape(rows, width)
            np.multiply(grid, factors[start // BLOCK : start // BLOCK + rows, None], out=grid)
            target = self._sum[start : start + rows * width]
            np.add(target, part, out=target)

    def mean(self) -> Vector:
        """The weighted mean of what was added, a new vector. Raises BadUpdate when that is nothing."""
        if not self.weight:
            raise BadUpdate("the mean of no updates")
        return self._sum / np.float32(self.weight)


class NormGuard:
    """Refuses an update whose norm is absurd: above `limit`, or above `factor` times the median of what was usual.

    One per job and master, kept over rounds: the first round has only the absolute limit to go by.
    """

    def __init__(self, limit: float = 1e6, factor: float = 30.0) -> None:
        self.limit, self.factor = limit, factor
        self._seen: deque[float] = deque(maxlen=MEMORY)

    @classmethod
    def for_weights(cls, norm: float, factor: float = 30.0) -> NormGuard:
        """A guard for a model whose weights have this norm: one step may not be a hundred times the model."""
        return cls(100.0 * (1.0 + norm), factor)

    @classmethod
    def for_model(cls, weights: Buffer) -> NormGuard:
        """The same from a model's bytes. Blocking."""
        return cls.for_weights(float(np.linalg.norm(load(weights)[1])))

    def admit(self, norm: float) -> None:
        """Remember a norm as usual, or raise BadUpdate and forget it."""
        if not norm <= self.limit:
            raise BadUpdate(f"an update of norm {norm:.3g}, the limit is {self.limit:.3g}")
        if len(self._seen) >= ENOUGH:
            usual = median(self._seen)
            if usual > 0 and norm > self.factor * usual:
                raise BadUpdate(f"an update of norm {norm:.3g}, usual are {usual:.3g}")
        self._seen.append(norm)
