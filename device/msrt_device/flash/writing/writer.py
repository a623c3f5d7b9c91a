"""The order of writes. Whenever the power goes, the medium either holds the whole image or does not boot.

1. The first MiB and, on a disk, the last one are zeroed and synced: no partition table (GPT has its copy at the end),
   no boot sector, no loader in a fixed place is left of what was there.
2. The body is written, in order, and synced; then the image's last chunk (its copy of the GPT), and synced.
3. The first MiB without its first block, synced; and the first block last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from msrt_device.flash.writing.blockmap import BLOCK
from msrt_device.flash.writing.errors import MediumRefused
from msrt_device.flash.writing.grid import CHUNK, HEAD
from msrt_device.flash.writing.image import ZEROS, Chunk, Chunks, Image
from msrt_device.flash.writing.medium import ENDLESS, Sink

__all__ = ["Progress", "Range", "Remembers", "Written", "write_image"]

COMMIT: Final = 256 << 20
"""Bytes after which what was written is synced and remembered, for a second try."""

GRAIN: Final = 64 << 10
"""Zeros are left out in pieces of this size, where the medium holds zeros already."""

Progress = Callable[[str, int, int], None]
"""(stage, bytes done, bytes in all or 0)."""


@dataclass(frozen=True, slots=True)
class Range:
    """What the medium must hold: bytes, and their SHA-256."""

    offset: int
    length: int
    digest: bytes


class Remembers(Protocol):
    """What an earlier try left on this medium; see `journal`."""

    zeroed: bool
    fresh: bool

    def has(self, range_: Range) -> bool: ...

    def note(self, range_: Range) -> None: ...

    def commit(self) -> None:
        """What was noted is on the medium."""

    def begin(self, *, zeroed: bool) -> None:
        """A first try begins."""


@dataclass
class Written:
    """What came of it."""

    ranges: list[Range] = field(default_factory=list)
    """In the image's order."""
    size: int = 0
    """Of the image, unpacked."""
    wrote: int = 0
    """Bytes that were written now: without zeros that were there, and what an earlier try had written."""


def write_image(image: Image, sink: Sink, progress: Progress, memory: Remembers) -> Written:
    """Write, so that it is on the medium when this returns; `verify` it then.

    Raises BadImage, MediumFailed; MediumRefused (too_small) where an image of unknown size turned out too large.
    """
    _unmake(sink, tail=memory.fresh)
    if memory.fresh:
        memory.begin(zeroed=sink.zero(0, min(image.size or sink.size, sink.size)))
    return _Writer(image, sink, progress, memory).run()


def _unmake(sink: Sink, *, tail: bool) -> None:
    """The tail only before a first try: later ones find some of the image there."""
    sink.write(0, memoryview(ZEROS)[: min(HEAD, sink.size)])
    if tail and HEAD < sink.size < ENDLESS:  # a file's copy of a GPT went with its content
        first = max(HEAD, sink.size - HEAD)
        sink.write(first, memoryview(ZEROS)[: sink.size - first])
    sink.sync()


class _Writer:
    def __init__(self, image: Image, sink: Sink, progress: Progress, memory: Remembers) -> None:
        self._image, self._sink, self._progress, self._memory = image, sink, progress, memory
        self._written = Written(size=image.size)
        self._head: list[tuple[int, bytes]] = []
        self._since = 0
        self._total = image.mapped if image.blocks is not None else image.size
        self._done = 0

    def run(self) -> Written:
        held: Chunk | None = None
        with Chunks(self._image) as chunks:
            for chunk in chunks:
                end = chunk.offset + chunk.length
                self._written.size = max(self._written.size, end)
                if end > self._sink.size:
                    raise MediumRefused("too_small", f"the image has more than the {self._sink.size} bytes that fit")
                if chunk.offset < HEAD:
                    self._keep_head(chunk)
                    chunks.done(chunk)
                    continue
                if held is not None:
                    self._body(held)
                    chunks.done(held)
                held = chunk
            self._sink.sync()
            if held is not None:
                self._put(held)
                chunks.done(held)
                self._sink.sync()
        self._finish_head()
        return self._written

    def _keep_head(self, chunk: Chunk) -> None:
        self._note(chunk)
        if chunk.data is not None:  # zeros are there already
            self._head.append((chunk.offset, bytes(chunk.data)))
        self._count(chunk)

    def _finish_head(self) -> None:
        for first in (False, True):
            for offset, data in self._head:
                split = max(0, BLOCK - offset)
                part, at = (data[:split], offset) if first else (data[split:], offset + min(split, len(data)))
                if part:
                    self._sink.write(at, memoryview(part))
                    self._written.wrote += len(part)
            self._sink.sync()

    def _body(self, chunk: Chunk) -> None:
        self._put(chunk)
        if self._since >= COMMIT:
            self._sink.sync()
            self._memory.commit()
            self._since = 0

    def _put(self, chunk: Chunk) -> None:
        if self._memory.fresh or not self._memory.has(_range(chunk)):
            if chunk.data is not None:
                for start, end in _filled(chunk) if self._memory.zeroed else [(0, chunk.length)]:
                    self._write(chunk.offset + start, chunk.data[start:end])
            elif not self._memory.zeroed:
                for at in range(chunk.offset, chunk.offset + chunk.length, CHUNK):
                    self._write(at, memoryview(ZEROS)[: min(CHUNK, chunk.offset + chunk.length - at)])
            self._memory.note(_range(chunk))
        self._note(chunk)
        self._count(chunk)

    def _write(self, offset: int, data: memoryview) -> None:
        self._sink.write(offset, data)
        self._written.wrote += len(data)
        self._since += len(data)

    def _note(self, chunk: Chunk) -> None:
        self._written.ranges.append(_range(chunk))

    def _count(self, chunk: Chunk) -> None:
        self._done += chunk.length
        self._progress("write", self._done, self._total)


def _range(chunk: Chunk) -> Range:
    return Range(chunk.offset, chunk.length, chunk.digest)


def _filled(chunk: Chunk) -> Iterator[tuple[int, int]]:
    """Where in a chunk something other than zeros is, in steps of GRAIN: so a packed image becomes a sparse file."""
    start = -1
    for at in range(0, chunk.length, GRAIN):
        if chunk.zeros(at, min(GRAIN, chunk.length - at)):
            if start >= 0:
                yield start, at
            start = -1
        elif start < 0:
            start = at
    if start >= 0:
        yield start, chunk.length
