"""Whether an image has a place for an identity, seen before anything of it is written."""

from __future__ import annotations

import contextlib
from typing import Final, Self

from msrt_device.flash.identity.medium import no_volume
from msrt_device.flash.identity.settings import IDENTITY_LABEL
from msrt_device.flash.volumes.fat import label_at
from msrt_device.flash.volumes.partitions import Partition, partitions
from msrt_device.flash.writing.grid import CHUNK, HEAD
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.medium import ENDLESS

__all__ = ["FAR", "need_place"]

FAR: Final = 512 << 20
"""Bytes of a stream that are unpacked for a look: a second or two of zstd, ten of xz. A partition that begins beyond is
only seen once it is on the medium."""
OURS: Final = "msrtid"
"""The GPT name of our own images' partition."""


def need_place(image: Image) -> None:
    """Raises NotFound where no volume of the image has the label MSRTID, BadImage (it is damaged)."""
    with _Peek(image) as peek, contextlib.suppress(_TooFarError):
        table = sorted(partitions(peek), key=lambda one: (one.name.lower() != OURS, one.offset))
        places = [Partition(0, 0, image.size or ENDLESS, ""), *table]
        if all(label_at(peek, where) != IDENTITY_LABEL for where in places):
            raise no_volume(str(image.path))


class _TooFarError(Exception):
    """A look would cost more than it is worth."""


class _Peek:
    """An image's bytes in the order that they are asked for; a stream begins anew where that goes back."""

    def __init__(self, image: Image) -> None:
        self._image, self._source = image, image.source()
        self._at, self._chunk = -1, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes only at the image's end. Raises BadImage, _TooFarError."""
        if self._source.threads == 1 and offset >= FAR:
            raise _TooFarError
        out = b""
        while len(out) < length:
            start = _begin(offset + len(out))
            if start != self._at:
                self._load(start)
            part = self._chunk[offset + len(out) - start :][: length - len(out)]
            if not part:
                break
            out += part
        return out

    def _load(self, start: int) -> None:
        if start < self._at and self._source.threads == 1:
            self._source.close()
            self._source = self._image.source()
        buffer = bytearray(CHUNK if start else HEAD)
        got = self._source.read_at(start, memoryview(buffer))
        self._at, self._chunk = start, bytes(buffer[:got])


def _begin(offset: int) -> int:
    """Of the piece of the grid that has it."""
    return 0 if offset < HEAD else HEAD + (offset - HEAD) // CHUNK * CHUNK
