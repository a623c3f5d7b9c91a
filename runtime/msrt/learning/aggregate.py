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
from msrt.learning.compress import Codec
from msrt.learning.compress.codec import slices
from msrt.learning.vector import Vector, load

__all__ = ["NormGuard", "RunningSum", "check", "scale_down"]


MEMORY: Final = 64
"""Norms remembered to know what is usual."""
ENOUGH: Final = 3
"""Norms that must have been seen before the median means something."""


def check(payload: Buffer, codec: Codec) -> float:
    """The Euclidean norm of a payload's vector. Raises BadUpdate when it cannot be read or is not finite."""
    codec.fits(payload)
    squares = codec.squares(payload)
    if not math.isfinite(squares):
        raise BadUpdate("the update holds NaN, infinity or numbers too large to square")
    return math.sqrt(squares)


def scale_down(norm: float, clip: float) -> float:
    """What is left of an update of this norm, where a clip is set (0: none is)."""
    return min(1.0, clip / norm) if clip and norm > 0 else 1.0


class RunningSum:
    """Adds weighted payloads one by one; the order does not matter but for rounding. Then it becomes their mean."""

    def __init__(self, size: int, room: memoryview | None = None) -> None:
        """`room`: where it lies, at least 4 bytes an element with whatever is in them. The caller takes it back."""
        self.size = size
        self.weight = 0.0
        self._sum: Vector
        if room is None:
            self._sum = np.zeros(size, np.float32)
        else:
            self._sum = np.frombuffer(room, np.float32, size)
        self._blank, self._over = room is None, False

    def add(self, payload: Buffer, codec: Codec, weight: float, scale: float = 1.0) -> None:
        """Add a checked payload with its weight (samples), shortened to `scale` of its length.

        Raises BadUpdate for a wrong length, weight or scale.
        """
        if not (weight > 0 and math.isfinite(weight) and 0 <= scale <= 1):
            raise BadUpdate(f"an update with a weight of {weight} and a scale of {scale}")
        codec.fits(payload)
        codec.add(payload, weight * scale, self._target())
        self.weight += weight

    def add_vector(self, vector: Vector, weight: float) -> None:
        """The same for what is decoded already."""
        target = self._target()
        for span in slices(self.size):
            target[span] += vector[span] * np.float32(weight)
        self.weight += weight

    def _target(self) -> Vector:
        if self._over:
            raise BadUpdate("an update after the mean was taken")
        if not self._blank:
            self._sum.fill(0)
            self._blank = True
        return self._sum

    def mean(self) -> Vector:
        """The weighted mean of what was added. It takes the place of the sum: nothing can be added any more. Raises
        BadUpdate when that is nothing.
        """
        if not self.weight:
            raise BadUpdate("the mean of no updates")
        if not self._over:
            np.divide(self._sum, np.float32(self.weight), out=self._sum)
            self._over = True
        return self._sum


class NormGuard:
    """Refuses an update whose norm is absurd: above `limit`, or above `factor` times the median of what was usual.

    One per job and master, kept over rounds: the first round has only the absolute limit to go by.
    """

    FACTOR: Final = 30.0

    def __init__(self, limit: float = 1e6, factor: float = FACTOR) -> None:
        self.limit, self.factor = limit, factor
        self._seen: deque[float] = deque(maxlen=MEMORY)

    @classmethod
    def for_weights(cls, norm: float, factor: float = FACTOR) -> NormGuard:
        """A guard for a model whose weights have this norm: one step may not be a hundred times the model."""
        return cls(100.0 * (1.0 + norm), factor)

    @classmethod
    def for_private(cls, noise: float) -> NormGuard:
        """Where updates are hidden. With `noise` of the nodes' own they are as long as that makes them: only the median
        bounds them. Without it every finite norm passes: whom a guard refuses depends on the others, and tells of them.
        """
        return cls(math.inf, cls.FACTOR if noise else math.inf)

    @classmethod
    def for_model(cls, weights: Buffer) -> NormGuard:
        """The same from a model's bytes. Blocking."""
        return cls.for_weights(float(np.linalg.norm(load(weights)[1])))

    def admit(self, norm: float, work: float = 1.0) -> None:
        """Remember a norm as usual, or raise BadUpdate and forget it.

        Who did a share of the work has come so far; whole updates are judged by how far all of it would have led.
        """
        if not norm <= self.limit:
            raise BadUpdate(f"an update of norm {norm:.3g}, the limit is {self.limit:.3g}")
        if len(self._seen) >= ENOUGH and math.isfinite(self.factor):
            usual = median(self._seen)
            if usual > 0 and norm > self.factor * usual:
                raise BadUpdate(f"an update of norm {norm:.3g}, usual are {usual:.3g}")
        self._seen.append(norm / work if 0 < work <= 1 else norm)
