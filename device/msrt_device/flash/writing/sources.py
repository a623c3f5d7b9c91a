"""Where the bytes of an image come from: places that can be read at once, or a stream that can only be read on.

A raw file is read anywhere. So is a zstd file whose frames keep to the grid, as `msrt device image` packs it: each of
them is unpacked by itself, those that no block map names not at all. Any other zstd or xz file is a stream.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from pathlib import Path
from typing import Final, Protocol

from msrt_device.flash.writing.compressed import WINDOW, Frame, Reader, load_zstandard, open_xz, open_zstd, zstd_faults
from msrt_device.flash.writing.errors import BadImage
from msrt_device.flash.writing.grid import CHUNK, cut

__all__ = ["Frames", "RawFile", "Source", "Stream", "on_grid", "source_of"]

PARALLEL: Final = 2
"""Threads that read a source which can be read anywhere: one unpacks while the other does, more have no core here."""


class Source(Protocol):
    """The unpacked bytes."""

    threads: int
    """How many may call `read_at` at once; with one, it is called with growing offsets."""

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill `into`, which reaches over no cut of the grid; fewer bytes only at the image's end. Raises BadImage."""

    def close(self) -> None: ...


def source_of(path: Path, kind: str, frames: list[Frame]) -> Source:
    """Of an image of that kind; `frames` are those of a zstd file."""
    if kind == "raw":
        return RawFile(path)
    if kind == "xz":
        return Stream(open_xz(path), path)
    return Frames(path, frames) if on_grid(frames) else Stream(open_zstd(path), path)


def on_grid(frames: list[Frame]) -> bool:
    """Whether each frame is one piece of the grid, known by its header."""
    if any(frame.size < 0 for frame in frames):
        return False
    sizes = [frame.size for frame in frames]
    return bool(sizes) and sizes == [length for _, length in cut(0, sum(sizes))]


class RawFile:
    """As it is."""

    threads = PARALLEL

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(self, offset: int, into: memoryview) -> int:
        have = 0
        while have < len(into):
            got = os.preadv(self._fd, [into[have:]], offset + have)
            if not got:
                break
            have += got
        return have

    def close(self) -> None:
        os.close(self._fd)


class Stream:
    """What can only be read on: what is skipped is unpacked, too."""

    threads = 1

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader, self._path, self._at = reader, path, 0

    def read_at(self, offset: int, into: memoryview) -> int:
        scratch = memoryview(bytearray(min(CHUNK, offset - self._at)))
        while self._at < offset:
            if not self._fill(scratch[: offset - self._at]):
                raise BadImage(f"{self._path} ended at byte {self._at}, not after {offset}", hint="fetch it again")
        return self._fill(into)

    def _fill(self, into: memoryview) -> int:
        have = 0
        while have < len(into):
            got = self._reader.readinto(into[have:])
            if not got:
                break
            have += got
        self._at += have
        return have

    def close(self) -> None:
        self._reader.close()


class Frames:
    """A zstd file on the grid. A frame that is wanted whole is unpacked in place: no window, no copy between."""

    threads = PARALLEL

    def __init__(self, path: Path, frames: list[Frame]) -> None:
        self._path, self._frames = path, frames
        self._begins = [offset for offset, _ in cut(0, sum(frame.size for frame in frames))]
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._kept = (-1, b"")

    def read_at(self, offset: int, into: memoryview) -> int:
        number = bisect_right(self._begins, offset) - 1
        within, frame = offset - self._begins[number], self._frames[number]
        if within >= frame.size:
            return 0
        if not within and len(into) >= frame.size:
            self._unpack(frame, into[: frame.size])
            return frame.size
        with self._lock:  # several extents of a block map lie in one frame, and come one after the other
            if self._kept[0] != number:
                whole = bytearray(frame.size)
                self._unpack(frame, memoryview(whole))
                self._kept = (number, bytes(whole))
            part = self._kept[1][within : within + len(into)]
        into[: len(part)] = part
        return len(part)

    def _unpack(self, frame: Frame, into: memoryview) -> None:
        zstandard = load_zstandard()
        own = self._own
        if not hasattr(own, "unpacker"):  # neither may be used by two threads
            own.unpacker, own.packed = zstandard.ZstdDecompressor(max_window_size=WINDOW), bytearray()
        if len(own.packed) < frame.packed:
            own.packed = bytearray(frame.packed)
        with memoryview(own.packed)[: frame.packed] as packed:
            if os.preadv(self._fd, [packed], frame.at) < frame.packed:
                raise BadImage(f"{self._path} became shorter while it was read", hint="fetch it again")
            with zstd_faults(self._path), own.unpacker.stream_reader(packed) as reader:
                got = reader.readinto(into)
                if got != len(into) or reader.readinto(bytearray(1)):  # this one looks at the frame's checksum, too
                    raise BadImage(f"{self._path} is damaged: a frame does not hold what its header says")

    def close(self) -> None:
        os.close(self._fd)
