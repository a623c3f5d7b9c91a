"""Updates as whole numbers whose sum over all nodes cannot overflow, so that it is exact modulo 2^bits.

Payload: SUMS unsigned 64-bit numbers, then one unsigned number of 16 or 32 bits for each parameter, little endian, all
modulo their width. A parameter stands for round(x * samples / most * scale), rounded up or down at random so that its
mean is right (QSGD, Alistarh 2017). What else a sum must say lies in the 64-bit part: how many samples, how many nodes
were clipped, and loss and accuracy times samples. So a masked payload says nothing of these either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.buffers import SLICE, Buffer, room_for
from msrt.errors import BadUpdate, InvalidJob
from msrt.learning.compress.blocks import lift
from msrt.learning.compress.codec import SPAN, scratch, slices
from msrt.learning.vector import Vector, l2_norm

__all__ = ["HEAD", "SUMS", "Fixed", "Total", "add", "parts", "size_of"]

SUMS: Final = 6
"""samples, clipped, then loss and accuracy: value times samples, samples that had it."""
HEAD: Final = 8 * SUMS
METRICS: Final = ("loss", "accuracy")
UNIT: Final = 1 << 20
"""Steps of a metric."""
LARGEST: Final = 1 << 16
"""Of a metric; beyond it one counts as this."""
WORDS: Final[dict[int, type[np.unsignedinteger[Any]]]] = {16: np.uint16, 32: np.uint32}
SIGNED: Final[dict[int, type[np.signedinteger[Any]]]] = {16: np.int16, 32: np.int32}


class Total(msgspec.Struct, frozen=True):
    """What a sum says, beside the mean."""

    samples: int
    clipped: int
    """Nodes whose update was longer than the norm that all keep to."""
    metrics: dict[str, float]
    """Sample-weighted means."""


class Fixed:
    """Vectors of `size` parameters of at most `count` nodes, each of at most `most` samples.

    `clip` is the largest Euclidean norm of an update: a longer one is shortened to it, by its own node, for nobody else
    can see it. `span` is the largest magnitude of one parameter, 0: `clip`. Raises InvalidJob where so many nodes leave
    no room for a value.
    """

    def __init__(self, size: int, count: int, most: int, clip: float, span: float = 0.0, bits: int = 32) -> None:
        self.size, self.count, self.most, self.clip, self.bits = size, count, most, clip, bits
        most_each = ((1 << (bits - 1)) - 1) // max(count, 1)
        self.limit = most_each >> (spare := max(0, most_each.bit_length() - 24)) << spare
        """Largest magnitude of one node's whole number. It is a float32 as well."""
        if self.limit < 1:
            raise InvalidJob(f"the sum of {count} nodes does not fit {bits} bits", hint="take bits = 32")
        self.scale = self.limit / (span or clip)

    @property
    def bytes(self) -> int:
        """Length of every payload."""
        return size_of(self.size, self.bits)

    def encode(self, flat: Vector, samples: int, metrics: Mapping[str, float], seed: int) -> memoryview:
        """A node's payload, writable. Raises BadUpdate for a vector that is not finite or of another size."""
        if flat.size != self.size or samples < 1:
            raise BadUpdate(f"an update of {flat.size} parameters and {samples} samples, the model has {self.size}")
        norm = l2_norm(flat)
        if not math.isfinite(norm):
            raise BadUpdate("the update holds NaN, infinity or numbers too large to square")
        weight = min(samples, self.most)
        size = self.bytes
        payload = room_for(size) if size > SLICE else memoryview(bytearray(size))
        sums, words = parts(payload, self.bits)
        sums[:] = _sums(weight, norm > self.clip, metrics)
        factor = np.float32(self.scale * weight / self.most * min(1.0, self.clip / norm if norm else 1.0))
        dice, room = np.random.Generator(np.random.SFC64(seed)), scratch(self.size)
        signed = words.view(SIGNED[self.bits])
        for span in slices(self.size):
            part = room[: span.stop - span.start]
            np.multiply(flat[span], factor, out=part)
            np.add(part, lift(dice, part.size), out=part)
            np.floor(part, out=part)
            np.clip(part, -self.limit, self.limit, out=part)
            np.copyto(signed[span], part, casting="unsafe")
        return payload

    def decode(self, payload: Buffer) -> tuple[Vector, Total]:
        """(mean, what else) of the sum of unmasked payloads. Raises BadUpdate where it is none."""
        sums, words = parts(payload, self.bits)
        samples, clipped, *rest = sums.view(np.int64).tolist()
        if words.size != self.size or not 0 < samples <= self.count * self.most or not 0 <= clipped <= self.count:
            raise BadUpdate(f"a sum of {samples} samples: somebody's masks did not cancel")
        mean: Vector = words.view(SIGNED[self.bits]).astype(np.float32)
        mean *= np.float32(self.most / (self.scale * samples))
        known = zip(METRICS, rest[::2], rest[1::2], strict=True)
        metrics = {name: value / UNIT / weight for name, value, weight in known if 0 < weight <= samples}
        return mean, Total(samples, clipped, metrics)


def size_of(size: int, bits: int) -> int:
    """Bytes of a payload of so many parameters."""
    return HEAD + size * bits // 8


def parts(payload: Buffer, bits: int) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Its sums and its parameters, without a copy."""
    return np.frombuffer(payload, "<u8", SUMS), np.frombuffer(payload, WORDS[bits], offset=HEAD)


def add(payload: Buffer, total: memoryview, bits: int) -> None:
    """Add a payload to a sum of them, modulo their widths."""
    for new, old in zip(parts(payload, bits), parts(total, bits), strict=True):
        for start in range(0, old.size, SPAN):
            block = old[start : start + SPAN]
            np.add(block, new[start : start + SPAN], out=block)


def _sums(weight: int, clipped: bool, metrics: Mapping[str, float]) -> list[int]:  # noqa: FBT001 - one of six sums
    sums = [weight, int(clipped)]
    for name in METRICS:
        value = metrics.get(name, math.nan)
        known = math.isfinite(value)
        bounded = round(max(-LARGEST, min(LARGEST, value)) * UNIT) if known else 0
        sums += [bounded * weight, weight if known else 0]
    return [value % (1 << 64) for value in sums]
