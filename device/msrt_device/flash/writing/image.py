"""An image as chunks: read and unpacked ahead of the writer by threads, hashed by another.

Reading, unpacking and SHA-256 leave the interpreter's lock, so they cost the writer nothing while the medium is the
slower one. Memory is bounded by the buffers that go round.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msrt_device.flash.writing.blockmap import BlockMap, Extent, data_extents
from msrt_device.flash.writing.compressed import Frame, kind_of, zstd_frames
from msrt_device.flash.writing.errors import BadImage
from msrt_device.flash.writing.grid import CHUNK, cut
from msrt_device.flash.writing.sources import Source, source_of

__all__ = ["ZEROS", "Chunk", "Chunks", "Image"]

BUFFERS: Final = 8
"""Two with the writer, two that are filled, and some between."""
AHEAD: Final = 32
"""Pieces that are looked at ahead of the writer; most images have holes, which need no buffer."""
ALIGN: Final = 4096
ZEROS: Final = bytes(CHUNK)


class Buffer:
    """A chunk's bytes, aligned as O_DIRECT wants them."""

    def __init__(self) -> None:
        self.whole = bytearray(CHUNK + ALIGN)
        self.start = -ctypes.addressof(ctypes.c_char.from_buffer(self.whole)) % ALIGN
        self.view = memoryview(self.whole)[self.start : self.start + CHUNK]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an image, in order. `data` is None where all of it is zeros, else good until `Chunks.done`."""

    offset: int
    length: int
    data: memoryview | None
    hashed: Future[bytes]
    buffer: Buffer | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes; waits for it. Raises BadImage where it is not what the block map says."""
        return self.hashed.result()

    def zeros(self, at: int, length: int) -> bool:
        """Whether so many bytes of it are zeros, at most GRAIN."""
        return _zeros(self.buffer, at, length) if self.buffer is not None else True


class Image:
    """An image file, and its block map where there is one."""

    def __init__(self, path: Path, kind: str, size: int, blocks: BlockMap | None, frames: list[Frame]) -> None:
        self.path, self.kind, self.blocks, self._frames = path, kind, blocks, frames
        self.size = size
        """Bytes when unpacked; 0: not known before the end."""

    @classmethod
    def open(cls, path: Path, bmap: Path | None = None) -> Self:
        """Look at an image; a block map beside it (IMAGE.bmap, or that of IMAGE without .zst, .xz) is used by itself.

        Raises BadImage.
        """
        kind = kind_of(path)
        frames = zstd_frames(path) if kind == "zstd" else []
        size = path.stat().st_size if kind == "raw" else sum(frame.size for frame in frames)
        if any(frame.size < 0 for frame in frames):
            size = 0
        found = bmap or next((one for one in _beside(path, kind) if one.is_file()), None)
        blocks = None
        if found is not None:
            try:
                blocks = BlockMap.parse(found.read_text("utf-8"), str(found))
            except (OSError, UnicodeDecodeError) as error:
                raise BadImage(f"cannot read the block map {found}: {error}") from error
            if size and blocks.size != size:
                raise BadImage(
                    f"{found} is of an image of {blocks.size} bytes, {path} has {size}",
                    hint="remove it, or make it anew",
                )
            size = blocks.size
        return cls(path, kind, size, blocks, frames)

    @property
    def mapped(self) -> int:
        """Bytes that have to be written; 0: not known before the end."""
        if self.blocks is not None:
            return sum(extent.length for extent in self.blocks.extents)
        if self.kind == "raw":
            return sum(extent.length for extent in self._raw_data())
        return self.size

    def _raw_data(self) -> list[Extent]:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return list(data_extents(fd, self.size))
        finally:
            os.close(fd)

    def source(self) -> Source:
        """The unpacked bytes."""
        return source_of(self.path, self.kind, self._frames)

    def pieces(self) -> Iterator[tuple[int, int, bool, Extent | None]]:
        """(offset, length, may hold data, the extent of the block map that it ends) of each chunk, in order.

        Without a known size it does not end: the image does.
        """
        if self.blocks is not None:
            for extent in self.blocks.extents:
                for offset, length in cut(extent.offset, extent.end):
                    yield offset, length, True, extent if offset + length == extent.end else None
            return
        at = 0
        for extent in self._raw_data() if self.kind == "raw" else [Extent(0, self.size or 1 << 62)]:
            yield from ((offset, length, False, None) for offset, length in cut(at, extent.offset))
            yield from ((offset, length, True, None) for offset, length in cut(extent.offset, extent.end))
            at = extent.end
        if self.kind == "raw":
            yield from ((offset, length, False, None) for offset, length in cut(at, self.size))


@dataclass(slots=True)
class _Coming:
    """A piece that is being read; a hole has neither buffer nor `filled`."""

    offset: int
    length: int
    ends: Extent | None = None
    buffer: Buffer | None = None
    filled: Future[int] | None = None


class Chunks:
    """Iterates over an image's chunks; give each back with `done`. Its threads end with the `with` block."""

    def __init__(self, image: Image) -> None:
        self._image, self._source = image, image.source()
        self._free = [Buffer() for _ in range(BUFFERS)]
        self._readers = ThreadPoolExecutor(self._source.threads, "image")
        self._hasher = ThreadPoolExecutor(1, "image-hash")
        self._whole = hashlib.sha256()
        """In the hasher's thread: what was hashed of an extent that has more than one chunk."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in (self._readers, self._hasher):
            pool.shutdown(cancel_futures=True)
        self._source.close()

    def __iter__(self) -> Iterator[Chunk]:
        pieces, coming, ready = self._image.pieces(), deque[_Coming](), deque[Chunk]()
        more = True
        while True:
            more = more and self._read_ahead(pieces, coming)
            # What is read is hashed while the chunks before it are written.
            while coming and (not ready or coming[0].filled is None or coming[0].filled.done()):
                first = coming.popleft()
                got = self._got(first)
                if got:
                    ready.append(self._chunk(first, got))
                if got < first.length:  # of an image that does not say its size: this is its end
                    more = False
                    coming.clear()
            if not ready:
                return
            yield ready.popleft()

    def done(self, chunk: Chunk) -> None:
        """Its bytes are written: the buffer goes round, once they are hashed."""
        if chunk.buffer is not None:
            chunk.hashed.result()
            self._free.append(chunk.buffer)

    def _read_ahead(self, pieces: Iterator[tuple[int, int, bool, Extent | None]], coming: deque[_Coming]) -> bool:
        """As far as there are buffers; False at the end."""
        while self._free and len(coming) < AHEAD:
            found = next(pieces, None)
            if found is None:
                return False
            offset, length, data, ends = found
            if not data:
                coming.append(_Coming(offset, length))
                continue
            buffer = self._free.pop()
            filled = self._readers.submit(self._source.read_at, offset, buffer.view[:length])
            coming.append(_Coming(offset, length, ends, buffer, filled))
        return True

    def _got(self, piece: _Coming) -> int:
        got = piece.length if piece.filled is None else piece.filled.result()
        if got < piece.length and (self._image.blocks is not None or self._image.size):
            at = piece.offset + got
            raise BadImage(f"{self._image.path} ended at byte {at}, not at {self._image.size}", hint="fetch it again")
        return got

    def _chunk(self, piece: _Coming, length: int) -> Chunk:
        buffer = piece.buffer
        if buffer is None:
            return Chunk(piece.offset, length, None, zero_digest(length))
        mapped = self._image.blocks is not None
        zeros = _zeros(buffer, 0, length)
        if zeros and not mapped:
            self._free.append(buffer)
            return Chunk(piece.offset, length, None, zero_digest(length))
        data = buffer.view[:length]
        hashed = self._hasher.submit(self._hash_mapped if mapped else _hash, *([data, piece] if mapped else [data]))
        return Chunk(piece.offset, length, None if zeros else data, hashed, buffer)

    def _hash_mapped(self, data: memoryview, piece: _Coming) -> bytes:
        """In the hasher's thread, in order. Raises BadImage at the end of an extent that is not what its map says."""
        mine = hashlib.sha256(data)
        extent = piece.ends
        alone = extent is not None and extent.length == len(data)
        if not alone:
            self._whole.update(data)
        if extent is not None:
            found = mine if alone else self._whole
            self._whole = hashlib.sha256()
            if extent.sha256 and found.hexdigest() != extent.sha256:
                raise BadImage(f"{self._image.path} is not what its block map says, before byte {extent.end}")
        return mine.digest()


def _zeros(buffer: Buffer, at: int, length: int) -> bool:
    return buffer.whole.startswith(_zeros_of(length), buffer.start + at)


@lru_cache(maxsize=64)
def _zeros_of(length: int) -> bytes:
    return ZEROS[:length]


@lru_cache(maxsize=64)
def zero_digest(length: int) -> Future[bytes]:
    """SHA-256 of so many zeros, at most a chunk."""
    known: Future[bytes] = Future()
    known.set_result(_hash(memoryview(ZEROS)[:length]))
    return known


def _hash(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _beside(path: Path, kind: str) -> list[Path]:
    names = [path.with_name(path.name + ".bmap")]
    return names if kind == "raw" else [*names, path.with_suffix(".bmap"), path.with_suffix("").with_suffix(".bmap")]
