"""Parts of an artifact over a hop: "artifact.ranges" {digest, ranges} is answered by one stream of them, one behind the
other. `ranges` is flat: offset, size, offset, size, in order and apart."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from msrt.artifacts.lent import Lent
from msrt.artifacts.store import ArtifactStore, Fetch
from msrt.artifacts.transfer import ARTIFACT
from msrt.buffers import SLICE, Buffer
from msrt.errors import CallerError
from msrt.hop import Peer
from msrt.world.files import check_digest

__all__ = ["MOST", "RANGES", "serve_ranges"]

RANGES: Final = "artifact.ranges"
MOST: Final = 4000
"""Ranges in one question."""
Span = tuple[int, int]


async def serve_ranges(store: ArtifactStore, peer: Peer, params: dict[str, object], fetch: Fetch) -> object:
    """Answer; what is not here comes from our own parent first. Raises CallerError, NotFound, Corrupt."""
    digest, call, flat = params.get("digest"), params.get("_call"), params.get("ranges")
    if not isinstance(digest, str) or not isinstance(call, int) or not isinstance(flat, list):
        raise CallerError(f"{RANGES} needs a digest and ranges")
    check_digest(digest)
    await store.ensure(digest, fetch)
    async with store.lend(digest) as lent:
        spans = _spans(flat, lent.size)
        reader = _Reader(lent, spans)
        running = await _hash(store, reader)
        meta: dict[str, object] = {"digest": digest}
        await peer.push(ARTIFACT, meta, reader.read, size=reader.size, digest=running, answers=call)
        store.sent_bytes += reader.size
        return {"size": reader.size}


def _spans(flat: Sequence[object], size: int) -> list[Span]:
    numbers = [number for number in flat if isinstance(number, int) and not isinstance(number, bool)]
    spans = list(zip(numbers[::2], numbers[1::2], strict=False))
    last = 0
    for offset, count in spans:
        if offset < last or count <= 0 or offset + count > size:
            raise CallerError(f"the range {offset}+{count} is out of order, or beyond the artifact's {size} bytes")
        last = offset + count
    if not spans or len(numbers) != len(flat) or len(flat) % 2 or len(spans) > MOST:
        raise CallerError(f"{RANGES} takes 1 to {MOST} pairs of offset and size")
    return spans


class _Reader:
    """The ranges as one run of bytes."""

    def __init__(self, lent: Lent, spans: list[Span]) -> None:
        self._lent, self._spans = lent, spans
        self._starts = [0, *accumulate(count for _, count in spans)]
        self.size = self._starts.pop()

    async def read(self, offset: int, size: int) -> Buffer:
        parts: list[Buffer] = []
        number = bisect_right(self._starts, offset) - 1
        while size > 0 and number < len(self._spans):
            begin, count = self._spans[number]
            skip = offset - self._starts[number]
            part = await self._lent.read(begin + skip, min(size, count - skip))
            parts.append(part)
            offset, size, number = offset + len(part), size - len(part), number + 1
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _hash(store: ArtifactStore, reader: _Reader) -> str:
    running = hashlib.sha256()
    for offset in range(0, reader.size, SLICE):
        await store.offload(running.update, await reader.read(offset, SLICE))
    return running.hexdigest()
