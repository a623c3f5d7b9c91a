"""What a codec is. Work is done by spans that stay in the cache, with scratch of a span, never of a model."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Final

import numpy as np

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.vector import Layout, Vector

__all__ = ["BLOCK", "SPAN", "Codec", "finite", "rows_of", "scratch", "slices"]

BLOCK: Final = 1024
"""Elements that share a scale."""
SPAN: Final = 64 * BLOCK
"""Elements handled at once: 256 KiB of float32 scratch stays in the cache."""


class Codec(abc.ABC):
    """Vectors of one layout as payloads of one length.

    `biased`: what it leaves out has a direction, so that its sender must remember it (see ErrorFeedback).
    """

    biased = True
    local = False
    """`part` gives each element to the bit as `add` does."""
    memory_size = 0
    """Elements that it carries from one vector to the next, beside the residual."""

    def __init__(self, name: str, layout: Layout) -> None:
        self.name, self.layout, self.size = name, layout, layout.size

    @property
    @abc.abstractmethod
    def bytes(self) -> int:
        """Length of every payload."""

    @abc.abstractmethod
    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        """Fill the payload; what it does not say of `flat` goes into `residual`, which may be `flat` itself.

        Raises BadUpdate when the vector is not finite.
        """

    @abc.abstractmethod
    def squares(self, payload: Buffer) -> float:
        """Sum of the squares of the vector that a payload stands for; not finite where it is not.

        Raises BadUpdate when the payload cannot be read.
        """

    @abc.abstractmethod
    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        """Target += weight * vector. The payload went through `squares`."""

    @abc.abstractmethod
    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        """The elements from `start` on, as many as `out` has room for. `start` is a multiple of BLOCK, and of the
        payload, which went through `squares`, little more is read.
        """

    def encode(self, flat: Vector, seed: int = 0) -> memoryview:
        """The payload of a vector without a past. Raises BadUpdate when it is not finite."""
        payload = memoryview(bytearray(self.bytes))
        rng = np.random.Generator(np.random.SFC64(seed))
        self.write(flat, payload, None, self.first_memory(), rng)
        return payload.toreadonly()

    def as_it_is(self, flat: Vector) -> memoryview | None:
        """The payload without a copy, where it is the vector itself. Raises BadUpdate when it is not finite."""
        del flat
        return None

    def decode(self, payload: Buffer) -> Vector:
        """The vector a payload stands for. Raises BadUpdate when its length is wrong."""
        self.fits(payload)
        flat: Vector = np.zeros(self.size, np.float32)
        self.add(payload, 1.0, flat)
        return flat

    def fits(self, payload: Buffer) -> None:
        """Raises BadUpdate when this is not the length of a payload."""
        if len(payload) != self.bytes:
            said = f"an update of {len(payload)} bytes, expected {self.bytes} for {self.size} parameters as {self.name}"
            raise BadUpdate(said)

    def named(self, name: str) -> None:
        """Raises BadUpdate when an update says that another codec made it."""
        if name != self.name:
            raise BadUpdate(f"an update as {name!r}, agreed was {self.name}")

    def first_memory(self) -> Vector:
        """What it carries before the first vector."""
        return np.empty(0, np.float32)


def slices(size: int) -> Iterator[slice]:
    """0 .. size by spans."""
    return (slice(start, min(start + SPAN, size)) for start in range(0, size, SPAN))


def rows_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Cut `size` elements into (start, rows, width): whole blocks by the span, then what is left as one short row."""
    whole = size - size % BLOCK
    for start in range(0, whole, SPAN):
        yield start, (min(start + SPAN, whole) - start) // BLOCK, BLOCK
    if whole < size:
        yield whole, 1, size - whole


def scratch(size: int) -> Vector:
    """Room for one span of a vector of this size."""
    return np.empty(min(max(size, 1), SPAN), np.float32)


def finite(values: Vector) -> None:
    """Raises BadUpdate for NaN or infinity among the values of an update that is being made."""
    if not np.isfinite(values).all():
        raise BadUpdate("the update is not finite", hint="lower the learning rate")
