"""The disk of a simulated node: it survives a crash, minus what was not synced, and can be switched to full."""

from __future__ import annotations

import hashlib
import random  # noqa: TID251 - the type of the seeded source that tears unsynced files
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from msrt.buffers import Buffer
from msrt.errors import Conflict, Corrupt, DiskFull, NotFound
from msrt.world.buffered import Batch, BufferedStore, Record
from msrt.world.files import check_digest

if TYPE_CHECKING:
    from msrt.world.world import Check, Spans

__all__ = ["MemoryBlobs", "MemoryDisk", "MemoryScratch", "MemoryStore"]


@dataclass(slots=True)
class _Image:
    """What of one store is on the disk."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, bytes] = field(default_factory=dict)


class MemoryStore(BufferedStore):
    """A `Store` over an image that the disk keeps."""

    def __init__(self, image: _Image, disk: MemoryDisk) -> None:
        super().__init__(dict(image.last))
        self._image = image
        self._disk = disk

    def _write(self, batch: Batch) -> None:
        if self._disk.dead:
            return  # its process is dead: nothing of it reaches the disk any more
        self._disk.check_space()
        image = self._image
        image.last.update(batch.last)
        for log, floor in batch.floors.items():
            records = image.records.get(log)
            if records and records[0][0] <= floor:
                del records[: floor - records[0][0] + 1]
        for log, fresh in batch.records.items():
            image.records.setdefault(log, []).extend(fresh)
        for key, value in batch.pairs.items():
            if value is None:
                image.pairs.pop(key, None)
            else:
                image.pairs[key] = value

    def _rows(self, log: str, after: int, limit: int) -> list[Record]:
        records = self._image.records.get(log)
        if not records:
            return []
        start = max(0, after + 1 - records[0][0])
        return records[start : start + limit]

    def _pairs(self, prefix: str) -> list[tuple[str, bytes]]:
        return [pair for pair in self._image.pairs.items() if pair[0].startswith(prefix)]


class MemoryBlobs:
    """Blobs in memory. A crash leaves any beginning of unfinished ones, and of whole ones that were not synced."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self.whole: dict[str, bytes] = {}
        self.pieces: dict[str, bytearray] = {}
        self.unsynced: set[str] = set()

    def size(self, digest: str) -> int | None:
        check_digest(digest)
        blob = self.whole.get(digest)
        return None if blob is None else len(blob)

    def partial(self, digest: str) -> int:
        check_digest(digest)
        return len(self.pieces.get(digest, b""))

    def write(self, digest: str, offset: int, data: bytes | memoryview, *, vouched: bool = False) -> None:
        """Write a piece where the last one ended, or over an earlier one; a gap raises Conflict."""
        del vouched
        check_digest(digest)
        self._disk.check_space()
        piece = self.pieces.setdefault(digest, bytearray())
        if offset > len(piece):
            raise Conflict(f"a piece at byte {offset} of blob {digest[:12]} leaves a gap after {len(piece)}")
        piece[offset : offset + len(data)] = data

    def finish(self, digest: str, *, sync: bool = True, vouched: bool = False, check: Check | None = None) -> None:
        check_digest(digest)
        piece = self.pieces.get(digest)
        if piece is None:
            if digest in self.whole:
                return
            raise NotFound(f"no piece of blob {digest[:12]} is here")
        self._disk.check_space()
        del self.pieces[digest]
        if check is not None:
            check(memoryview(piece).toreadonly())
        found = digest if vouched or check is not None else hashlib.sha256(piece).hexdigest()
        if found != digest:
            raise Corrupt(f"blob {digest[:12]} has another digest: {found[:12]}", hint="fetch it again")
        self.put(digest, bytes(piece), sync=sync)

    def put(self, digest: str, blob: bytes, *, sync: bool) -> None:
        self.whole[digest] = blob
        if not sync:
            self.unsynced.add(digest)

    def read(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        check_digest(digest)
        blob = self.whole.get(digest)
        if blob is None:
            raise NotFound(f"blob {digest[:12]} is not here")
        return blob[offset:] if size < 0 else blob[offset : offset + size]

    def delete(self, digest: str) -> None:
        check_digest(digest)
        self.whole.pop(digest, None)
        self.pieces.pop(digest, None)
        self.unsynced.discard(digest)

    def flip(self, digest: str, at: int) -> None:
        """Damage a whole blob: invert one byte, as a bad disk does."""
        blob = bytearray(self.whole[digest])
        blob[at] ^= 0xFF
        self.whole[digest] = bytes(blob)


class MemoryScratch:
    """A dictionary."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self._kept: dict[str, bytes] = {}

    def put(self, key: str, data: Buffer) -> memoryview:
        self._disk.check_space()
        self._kept[key] = bytes(data)
        return memoryview(self._kept[key])

    def free(self, key: str) -> None:
        self._kept.pop(key, None)

    def release(self) -> None: ...

    def close(self) -> None:
        self._kept.clear()


class MemoryDisk:
    """A simulated state directory, as one process sees it. After a crash `crash` gives the next process its own."""

    path: Path | None = None

    def __init__(self, rng: random.Random | None = None) -> None:
        self.full = False
        """While True, commits and writes raise DiskFull."""
        self.room: int | None = None
        """Bytes that are free; None: nobody counts."""
        self.dead = False
        """Its process was killed: nothing written through this object lasts."""
        self._rng = rng
        self._images: dict[str, _Image] = {}
        self._stores: dict[str, MemoryStore] = {}
        self._blobs = MemoryBlobs(self)

    def store(self, name: str) -> MemoryStore:
        if name not in self._stores:
            self._stores[name] = MemoryStore(self._images.setdefault(name, _Image()), self)
        return self._stores[name]

    def blobs(self) -> MemoryBlobs:
        return self._blobs

    def free_bytes(self) -> int | None:
        return self.room

    def digests(self) -> Iterator[tuple[str, int]]:
        for digest, blob in sorted(self._blobs.whole.items()):
            yield digest, len(blob)

    def file(self, _digest: str) -> None:
        return None

    def adopt(self, path: Path, digest: str, *, sync: bool = True) -> None:
        self.check_space()
        self._blobs.put(digest, path.read_bytes(), sync=sync)
        path.unlink()

    def evolve(self, base: str, digest: str, start: int, span: int, work: Callable[[Spans], None]) -> None:
        data = bytearray(self._blobs.read(base))
        self._blobs.delete(base)
        work((at, memoryview(data)[at : at + span]) for at in range(start, len(data), span))
        self.check_space()
        self._blobs.put(digest, bytes(data), sync=False)

    def displace(self, base: str, _digest: str) -> None:
        self._blobs.delete(base)

    def scratch(self, _each: int) -> MemoryScratch:
        return MemoryScratch(self)

    def check_space(self) -> None:
        if self.full:
            raise DiskFull("the disk took no more")

    def crash(self) -> MemoryDisk:
        """The process is gone: buffers are lost, unsynced pieces torn. Returns what the next one finds."""
        self.dead = True
        heir = MemoryDisk(self._rng)
        heir.full, heir.room, heir._images = self.full, self.room, self._images
        heir._blobs.whole = dict(self._blobs.whole)
        for digest in sorted(self._blobs.unsynced & self._blobs.whole.keys()):
            blob = heir._blobs.whole.pop(digest)
            kept = self._rng.randint(0, len(blob)) if self._rng else 0
            if kept:
                heir._blobs.whole[digest] = blob[:kept]
        for digest, piece in self._blobs.pieces.items():
            kept = self._rng.randint(0, len(piece)) if self._rng else len(piece)
            heir._blobs.pieces[digest] = bytearray(piece[:kept])
        return heir
