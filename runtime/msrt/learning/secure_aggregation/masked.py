"""Masked payloads as an edge handles them: of one length, added up as they are, saying nothing alone."""

from __future__ import annotations

import numpy as np

from msrt.buffers import Buffer
from msrt.errors import BadUpdate
from msrt.learning.compress import Codec
from msrt.learning.secure_aggregation.fixed import add, size_of
from msrt.learning.vector import Layout, Vector

__all__ = ["ENCODING", "Masked", "MaskedSum"]

ENCODING = "secure"


class Masked(Codec):
    """The codec of a device's update where updates are masked. Only the sum can be read: see `Fixed`, `unmask`."""

    biased = False

    def __init__(self, layout: Layout, bits: int) -> None:
        super().__init__(ENCODING, layout)
        self.bits = bits

    @property
    def bytes(self) -> int:
        return size_of(self.size, self.bits)

    def write(
        self, flat: Vector, payload: memoryview, residual: Vector | None, memory: Vector, rng: np.random.Generator
    ) -> None:
        """Raises BadUpdate: it takes the keys of an exchange (see SecureClient.mask)."""
        del flat, payload, residual, memory, rng
        raise BadUpdate("an update is masked with the keys of an exchange")

    def squares(self, payload: Buffer) -> float:
        """0: nobody can see how long a masked update is, its own device keeps to the norm."""
        del payload
        return 0.0

    def part(self, payload: Buffer, start: int, out: Vector) -> None:
        """Raises BadUpdate: it is no vector (see MaskedSum)."""
        del payload, start, out
        raise BadUpdate("a masked update is no vector")

    def add(self, payload: Buffer, weight: float, target: Vector) -> None:
        """Raises BadUpdate: it is no vector (see MaskedSum)."""
        del payload, weight, target
        raise BadUpdate("a masked update is no vector")


class MaskedSum:
    """Adds masked payloads one by one, in the memory of one."""

    def __init__(self, codec: Masked) -> None:
        self.bits = codec.bits
        self.total = memoryview(bytearray(codec.bytes))

    def add(self, payload: Buffer, codec: Codec, weight: float, scale: float = 1.0) -> None:
        """Add a payload that is whole. Its weight is inside. Raises BadUpdate for a wrong length."""
        del weight, scale
        codec.fits(payload)
        add(payload, self.total, self.bits)
