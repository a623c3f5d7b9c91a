"""Content-defined chunks: where bytes are cut depends on the bytes around, so what two versions share is cut alike.

FastCDC (Xia et al., USENIX ATC 2016): a gear hash over the last 32 bytes, no cut in a chunk's first bytes, and two
masks, a hard one before the normal size and an easy one after it, which keeps sizes close to it. The hash of every
position is computed at once, by doubling its window five times: numpy does that a hundred times faster than a loop.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import FrameTooLarge, InvalidImage, MalformedFrame
from msrt.protocol import wire

__all__ = ["Index", "ReadAt", "cuts", "index_of", "pack_index", "unpack_index"]

LEAST: Final = 2 << 10
NORMAL: Final = 8 << 10
MOST: Final = 64 << 10
"""Bytes of a chunk. Small ones, for what changes in an agent is some lines here and there."""
WINDOW: Final = 32
BLOCK: Final = 256 << 10
"""Positions hashed at a time: what that takes stays in the processor's cache."""
HARD: Final = np.uint32(0xFFFE_0000)
EASY: Final = np.uint32(0xFFE0_0000)
"""15 and 11 high bits: only they depend on all 32 bytes."""
NAME: Final = 16
"""Bytes of a chunk's SHA-256 that name it. The whole is verified by its own digest afterwards."""
INDEX_LIMIT: Final = 64 << 20

ReadAt = Callable[[int, int], Buffer]
"""read(offset, size). Blocking."""

_GEAR: Final = np.frombuffer(
    b"".join(hashlib.sha256(b"msrt gear %d" % number).digest()[:4] for number in range(256)), dtype="<u4"
)


class Index(msgspec.Struct, frozen=True):
    """The chunks of an artifact, in order."""

    size: int
    sizes: bytes
    """u32 little endian for each."""
    names: bytes
    """16 bytes for each."""

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """Offset, size and name of each."""
        offset = 0
        for number, size in enumerate(np.frombuffer(self.sizes, dtype="<u4").tolist()):
            yield offset, size, self.names[number * NAME : (number + 1) * NAME]
            offset += size


def pack_index(index: Index) -> bytes:
    """As it lies and travels."""
    return wire.pack(index)


def unpack_index(data: Buffer) -> Index:
    """Raises InvalidImage."""
    try:
        index = wire.unpack(data, Index, limit=INDEX_LIMIT)
    except (MalformedFrame, FrameTooLarge) as error:
        raise InvalidImage(f"the index of an image cannot be read: {error.text}") from error
    sizes = np.frombuffer(index.sizes[: len(index.sizes) // 4 * 4], dtype="<u4")
    if len(index.sizes) % 4 or len(index.names) != len(sizes) * NAME or int(sizes.sum(dtype=np.int64)) != index.size:
        raise InvalidImage("the index of an image contradicts itself")
    return index


def index_of(read: ReadAt, size: int) -> Index:
    """Cut and name what `read` reads; some hundred KiB of it are in memory at a time. Blocking."""
    ends = cuts(read, size)
    starts = [0, *ends[:-1]]
    names = b"".join(
        hashlib.sha256(read(start, end - start)).digest()[:NAME] for start, end in zip(starts, ends, strict=False)
    )
    return Index(size, np.diff([0, *ends]).astype("<u4").tobytes(), names)


def cuts(read: ReadAt, size: int) -> list[int]:
    """Where chunks end, the last one at the end of all. Blocking."""
    places, hard = _candidates(read, size)
    start, ends = 0, list[int]()
    while start < size:
        start = _next(places, hard, start, size)
        ends.append(start)
    return ends


def _next(places: list[int], hard: list[int], start: int, size: int) -> int:
    """The end of the chunk that begins at `start`."""
    if size - start <= LEAST:
        return size
    normal = min(start + NORMAL, size)
    at = bisect_left(hard, start + LEAST)
    if at < len(hard) and hard[at] < normal:
        return hard[at]
    at = bisect_left(places, normal)
    most = min(start + MOST, size)
    return places[at] if at < len(places) and places[at] < most else most


def _candidates(read: ReadAt, size: int) -> tuple[list[int], list[int]]:
    """Positions behind bytes whose hash the easy mask, and the hard one, lets cut."""
    easy: list[NDArray[np.int64]] = []
    hard: list[NDArray[np.int64]] = []
    for begin in range(0, size, BLOCK):
        lead = min(begin, WINDOW - 1)
        block = read(begin - lead, min(BLOCK, size - begin) + lead)
        hashes = _hashes(np.frombuffer(block, dtype=np.uint8))[lead:]
        found = np.flatnonzero((hashes & EASY) == 0)
        easy.append(found + (begin + 1))
        hard.append(found[(hashes[found] & HARD) == 0] + (begin + 1))
    return _joined(easy), _joined(hard)


def _joined(parts: list[NDArray[np.int64]]) -> list[int]:
    whole: list[int] = np.concatenate(parts).tolist() if parts else []
    return whole


def _hashes(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """At each position the sum over k < 32 of gear(byte k before) << k, modulo 2**32."""
    hashes = _GEAR[data]
    width = 1
    while width < WINDOW:
        hashes[width:] += hashes[:-width] << np.uint32(width)
        width *= 2
    return hashes
