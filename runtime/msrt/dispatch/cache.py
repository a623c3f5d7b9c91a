"""Answers that are kept: bounded in bytes and age, found by version and digest of the inputs. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from msrt.protocol.messages import TensorSpec

__all__ = ["ENTRY_COST", "Cache", "key_of"]

V = TypeVar("V")
ENTRY_COST: Final = 512
"""Bytes that an entry takes beside its tensors; so that empty ones are bounded as well."""


def key_of(
    version: int,
    inputs: Sequence[TensorSpec],
    frames: Sequence[bytes | bytearray | memoryview],
    outputs: Sequence[str] = (),
) -> bytes:
    """What makes two requests of a model one question: version, wanted outputs, and each input's name, dtype, shape
    and bytes, whatever the order of the inputs. Lengths are in it, so that no two questions run into each other."""
    digest = hashlib.blake2b(repr((version, tuple(outputs))).encode(), digest_size=32)
    for spec, frame in sorted(zip(inputs, frames, strict=True), key=lambda pair: pair[0].name):
        digest.update(repr((spec.name, spec.dtype, spec.shape, len(frame))).encode())
        digest.update(frame)
    return digest.digest()


class Cache(Generic[V]):
    """The least recently used leaves first. Its bytes are counted with `ENTRY_COST` for each entry."""

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self.max_bytes, self.max_age_s = max_bytes, max_age_s
        self.bytes = 0
        self.hits = self.misses = self.evicted = 0
        self._entries: OrderedDict[bytes, tuple[V, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> V | None:
        """What was kept, if it is young enough."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        if now - found[2] > self.max_age_s:
            self._drop(key)
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return found[0]

    def put(self, key: bytes, value: V, size: int, now: float) -> bool:
        """Keep it; False for one that is larger than a quarter of all: it would push out too much for its sake."""
        size += ENTRY_COST
        if size > self.max_bytes // 4:
            return False
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (value, size, now)
        self.bytes += size
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
            self.evicted += 1
        return True

    def clear(self) -> None:
        """Another version serves: nothing that was kept is an answer any more."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key)[1]
