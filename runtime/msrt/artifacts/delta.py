"""Bringing an artifact with what is here already: only chunks that no seed has come from the parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import structlog

from msrt.artifacts.chunks import Index, ReadAt, index_of, unpack_index
from msrt.artifacts.ranges import MOST, RANGES
from msrt.artifacts.sink import BlobSink
from msrt.artifacts.store import ArtifactStore, Fetch
from msrt.artifacts.transfer import PARENT_S, SILENCE_S
from msrt.buffers import Buffer
from msrt.errors import CallerError, Corrupt, InvalidImage, NotFound, words_of
from msrt.hop import Uplink

__all__ = ["COPIED", "Piece", "Seed", "batches", "delta_fetch", "indexed_chunks", "known_chunks", "plan"]

log = structlog.get_logger()
COPIED: Final = 4 << 20
"""Bytes."""


class Seed(NamedTuple):
    """Where a chunk can be read."""

    read: ReadAt
    offset: int


class Piece(NamedTuple):
    """The next bytes of an artifact: from a seed, or to be fetched."""

    offset: int
    size: int
    seed: Seed | None


def known_chunks(read: ReadAt, size: int) -> dict[bytes, Seed]:
    """Chunks of an artifact that is here, by name. Blocking."""
    return indexed_chunks(index_of(read, size), read)


def indexed_chunks(index: Index, read: ReadAt) -> dict[bytes, Seed]:
    """The same where the artifact was cut before. Pure."""
    return {name: Seed(read, offset) for offset, _, name in index.chunks()}


def plan(index: Index, have: int, known: Mapping[bytes, Seed]) -> list[Piece]:
    """What to do from byte `have` on: neighbours that are fetched, or copied from one place on, as one piece. Pure."""
    out: list[Piece] = []
    for offset, size, name in index.chunks():
        skip = max(0, have - offset)
        if skip >= size:
            continue
        seed = known.get(name)
        piece = Piece(offset + skip, size - skip, seed and Seed(seed.read, seed.offset + skip))
        if out and _follows(out[-1], piece):
            out[-1] = out[-1]._replace(size=out[-1].size + piece.size)
        else:
            out.append(piece)
    return out


def _follows(last: Piece, piece: Piece) -> bool:
    if last.seed is None or piece.seed is None:
        return last.seed is piece.seed
    return last.seed.read is piece.seed.read and last.seed.offset + last.size == piece.seed.offset


def delta_fetch(
    store: ArtifactStore, uplink: Uplink, plain: Fetch, index: str, seeds: Callable[[], Mapping[bytes, Seed]]
) -> Fetch:
    """A `Fetch` of the artifact whose chunks the artifact `index` names. `seeds` is blocking.

    What came so far stays, as with every fetch. Where the whole turns out not to be the artifact (a seed was not what
    it was taken for) the store asks again, and then all of it is fetched.
    """

    async def fetch(digest: str, have: int, sink: BlobSink) -> object:
        if sink.suspect:
            return await plain(digest, have, sink)
        try:
            chunks = unpack_index(await store.get(index, plain))
        except (InvalidImage, NotFound) as error:
            log.info("artifact.no_index", digest=digest, error=error.text)
            return await plain(digest, have, sink)
        pieces = await store.offload(lambda: plan(chunks, have, seeds()))
        fetched = sum(piece.size for piece in pieces if piece.seed is None)
        log.info("artifact.delta", digest=digest, size=chunks.size, fetched=fetched, ranges=len(pieces))
        for batch in batches(pieces):
            weaver = _Weaver(store, sink, batch)
            wanted = [number for piece in batch if piece.seed is None for number in (piece.offset, piece.size)]
            if wanted:
                peer = await uplink.wait(PARENT_S)
                try:
                    await peer.fetch(RANGES, {"digest": digest, "ranges": wanted}, weaver, SILENCE_S)
                except CallerError as error:  # a parent of an earlier version
                    log.info("artifact.no_ranges", digest=digest, error=error.text)
                    return await plain(digest, sink.have, sink)
            await weaver.copy()
        await sink.complete()
        return None

    return fetch


def batches(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Pieces with at most MOST that are fetched, as one stream. What is copied between those is little, for a stream
    waits meanwhile: more than COPIED ends a batch, and is copied when its stream is over."""
    batch: list[Piece] = []
    wanted = copied = 0
    for piece in pieces:
        wanted, copied = wanted + (piece.seed is None), copied + (piece.size if piece.seed else 0)
        batch.append(piece)
        if (wanted == MOST and piece.seed is None) or copied > COPIED:
            yield batch
            batch, wanted, copied = [], 0, 0
    if batch:
        yield batch


class _Weaver:
    """Takes the fetched ranges as one stream, and writes them with what is copied between them, in order."""

    have = 0

    def __init__(self, store: ArtifactStore, sink: BlobSink, pieces: list[Piece]) -> None:
        self._store, self._sink = store, sink
        self._pieces = pieces[::-1]
        self._done = 0
        """Of the piece that is being fetched."""

    async def write(self, _offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            await self.copy()
            piece = self._pieces[-1]
            part = view[: piece.size - self._done]
            await self._sink.write(piece.offset + self._done, part)
            self._done += len(part)
            view = view[len(part) :]
            if self._done == piece.size:
                self._pieces.pop()
                self._done = 0

    async def copy(self) -> None:
        """What comes next and is here."""
        while self._pieces and (seed := self._pieces[-1].seed) is not None:
            piece = self._pieces.pop()
            for start in range(0, piece.size, 1 << 20):
                size = min(1 << 20, piece.size - start)
                data = await self._store.offload(seed.read, seed.offset + start, size)
                if len(data) != size:
                    raise Corrupt("what an earlier version left is shorter than it was", hint="all of it is fetched")
                await self._sink.write(piece.offset + start, data)

    async def complete(self, _size: int, _digest: str) -> None:
        """The ranges are whole; the artifact is verified as one."""

    def abort(self, error: Exception) -> None:
        log.info("artifact.delta_ended", error=words_of(error))
