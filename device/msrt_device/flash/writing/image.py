"""An image as a stream of chunks: read and unpacked ahead of the writer by one thread, hashed by another.

Reading, unpacking and SHA-256 leave the interpreter's lock, so they cost the writer nothing while the medium is the
slower one. Memory is bounded by the buffers that go round.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msrt_device.flash.writing.blockmap import BlockMap, Extent, data_extents
from msrt_device.flash.writing.compressed import Reader, kind_of, open_xz, open_zstd, zstd_size
from msrt_device.flash.writing.errors import BadImage

__all__ = ["CHUNK", "HEAD", "Chunk", "Chunks", "Image"]

CHUNK: Final = 4 << 20
HEAD: Final = 1 << 20
"""The beginning of an image: partition table, boot sectors, first-stage loaders. A chunk never reaches over its end."""
BUFFERS: Final = 6
WAIT_S: Final = 0.5
ZEROS: Final = bytes(CHUNK)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an image, in order. `data` is None where all of it is zeros, else good until `Chunks.done`."""

    offset: int
    length: int
    data: memoryview | None
    hashed: Future[bytes]
    buffer: bytearray | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes; waits for it."""
        return self.hashed.result()


class Image:
    """An image file, and its block map where there is one."""

    def __init__(self, path: Path, kind: str, size: int, blocks: BlockMap | None) -> None:
        self.path, self.kind, self.blocks = path, kind, blocks
        self.size = size
        """Bytes when unpacked; 0: not known before the end."""

    @classmethod
    def open(cls, path: Path, bmap: Path | None = None) -> Self:
        """Look at an image; a block map beside it (IMAGE.bmap, or that of IMAGE without .zst, .xz) is used by itself.

        Raises BadImage.
        """
        kind = kind_of(path)
        size = {"raw": lambda: path.stat().st_size, "zstd": lambda: zstd_size(path)}.get(kind, lambda: 0)()
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
        return cls(path, kind, size, blocks)

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

    def reader(self) -> Reader:
        """The unpacked bytes, from the first."""
        if self.kind == "xz":
            return open_xz(self.path)
        return open_zstd(self.path) if self.kind == "zstd" else self.path.open("rb", buffering=0)

    def pieces(self) -> Iterator[tuple[int, int, bool, Extent | None]]:
        """(offset, length, may hold data, the extent of the block map that it ends) of each chunk, in order.

        Without a known size it does not end: the image does.
        """
        if self.blocks is not None:
            for extent in self.blocks.extents:
                for offset, length in _cut(extent.offset, extent.end):
                    yield offset, length, True, extent if offset + length == extent.end else None
            return
        at = 0
        for extent in self._raw_data() if self.kind == "raw" else [Extent(0, self.size or 1 << 62)]:
            yield from ((offset, length, False, None) for offset, length in _cut(at, extent.offset))
            yield from ((offset, length, True, None) for offset, length in _cut(extent.offset, extent.end))
            at = extent.end
        if self.kind == "raw":
            yield from ((offset, length, False, None) for offset, length in _cut(at, self.size))


class Chunks:
    """Iterates over an image's chunks; give each back with `done`. Its thread ends with the `with` block."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._made = 0
        self._ready: queue.Queue[Chunk | BaseException | None] = queue.Queue(BUFFERS * 4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="image", daemon=True)
        self._hasher = ThreadPoolExecutor(1, "image-hash")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._hasher.shutdown()

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            found = self._ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def done(self, chunk: Chunk) -> None:
        """Its bytes are written: the buffer goes round, once they are hashed."""
        if chunk.buffer is not None:
            chunk.hashed.result()
            self._free.put(chunk.buffer)

    # --- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_all()
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the chunks are taken
            self._put(error)

    def _read_all(self) -> None:
        image, whole = self._image, hashlib.sha256()
        reader, at = image.reader(), 0
        try:
            for offset, length, data, ends in image.pieces():
                if not data:
                    self._put(Chunk(offset, length, None, zero_digest(length)))
                    at = self._skip(reader, at, offset + length)
                    continue
                at = self._skip(reader, at, offset)
                buffer = self._buffer()
                got = _fill(reader, memoryview(buffer)[:length])
                at += got
                if got < length and (image.blocks is not None or image.size):
                    raise BadImage(f"{image.path} ended at byte {at}, not at {image.size}", hint="fetch it again")
                if image.blocks is not None:
                    whole.update(memoryview(buffer)[:got])
                if ends is not None:
                    if ends.sha256 and whole.hexdigest() != ends.sha256:
                        raise BadImage(f"{image.path} is not what its block map says, before byte {at}")
                    whole = hashlib.sha256()
                if got:
                    self._put(self._chunk(offset, got, buffer))
                if got < length:
                    return
        finally:
            reader.close()

    def _chunk(self, offset: int, length: int, buffer: bytearray) -> Chunk:
        if buffer == ZEROS if length == CHUNK else buffer[:length] == ZEROS[:length]:
            self._free.put(buffer)
            return Chunk(offset, length, None, zero_digest(length))
        data = memoryview(buffer)[:length]
        return Chunk(offset, length, data, self._hasher.submit(_hash, data), buffer)

    def _skip(self, reader: Reader, at: int, to: int) -> int:
        """Go forward to a byte: a raw file jumps, a packed one is read."""
        if self._image.kind == "raw":
            assert hasattr(reader, "seek")
            reader.seek(to)
            return to
        scratch = memoryview(bytearray(min(CHUNK, to - at) if to > at else 0))
        while at < to:
            got = _fill(reader, scratch[: to - at])
            if not got:
                raise BadImage(f"{self._image.path} ended at byte {at}, not at {self._image.size}")
            at += got
        return at

    def _buffer(self) -> bytearray:
        if self._made < BUFFERS and self._free.empty():
            self._made += 1
            return bytearray(CHUNK)
        while not self._stop.is_set():
            try:
                return self._free.get(timeout=WAIT_S)
            except queue.Empty:
                continue
        raise InterruptedError("nobody takes the chunks any more")

    def _put(self, item: Chunk | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=WAIT_S)
                return
            except queue.Full:
                continue


@lru_cache(maxsize=64)
def zero_digest(length: int) -> Future[bytes]:
    """SHA-256 of so many zeros, at most a chunk."""
    known: Future[bytes] = Future()
    known.set_result(_hash(memoryview(ZEROS)[:length]))
    return known


def _hash(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _fill(reader: Reader, into: memoryview) -> int:
    have = 0
    while have < len(into):
        got = reader.readinto(into[have:])
        if not got:
            break
        have += got
    return have


def _cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    """In chunks that begin at HEAD plus a multiple of CHUNK, or at HEAD's beginning."""
    while start < end:
        stop = HEAD if start < HEAD else HEAD + ((start - HEAD) // CHUNK + 1) * CHUNK
        yield start, min(stop, end) - start
        start = min(stop, end)


def _beside(path: Path, kind: str) -> list[Path]:
    names = [path.with_name(path.name + ".bmap")]
    return names if kind == "raw" else [*names, path.with_suffix(".bmap"), path.with_suffix("").with_suffix(".bmap")]
