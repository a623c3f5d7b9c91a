"""Which blocks of an image hold data: from the holes of a sparse file, or a file beside the image.

The file is what bmaptool (Yocto's, Intel's) writes and reads, format 1.3 and 2.0: XML with ranges of blocks of 4 KiB
and the SHA-256 of each range. Whoever makes one promises that it does not matter what the medium holds elsewhere. A
hole of a sparse file promises no such thing: it is zeros.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from msrt_device.flash.writing.errors import BadImage
from msrt_device.flash.writing.grid import cut

__all__ = ["BLOCK", "BlockMap", "Extent", "data_extents"]

BLOCK: Final = 4096
PIECE: Final = 1 << 20
TEXT_LIMIT: Final = 32 << 20
_RANGE: Final = re.compile(r'<Range(?:\s+(?:chksum|sha1)="([0-9a-fA-F]+)")?\s*>\s*(\d+)(?:\s*-\s*(\d+))?\s*</Range>')


class Extent(msgspec.Struct, frozen=True):
    """A run of bytes that hold data."""

    offset: int
    length: int
    sha256: str = ""
    """Hex; empty where nobody has said."""

    @property
    def end(self) -> int:
        return self.offset + self.length


class BlockMap(msgspec.Struct, frozen=True):
    """Of an image: its size in bytes, and the extents with data, in order, apart."""

    size: int
    extents: tuple[Extent, ...]

    @classmethod
    def of_file(cls, path: Path, *, in_chunks: bool = False) -> Self:
        """Of a raw image: its data, each extent hashed. `in_chunks`: cut as the writer does, which then hashes once."""
        size = path.stat().st_size
        with path.open("rb") as file:
            extents = _blocks(data_extents(file.fileno(), size), size)
            if in_chunks:
                extents = (Extent(*piece) for extent in extents for piece in cut(extent.offset, extent.end))
            found = tuple(Extent(one.offset, one.length, _hash(file.fileno(), one)) for one in extents)
        return cls(size, found)

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a .bmap. Raises BadImage: what is not understood, or contradicts itself.

        No XML parser reads it: the format is flat, and entities of a stranger's file are not our business.
        """
        if "<!ENTITY" in text or len(text) > TEXT_LIMIT:
            raise BadImage(f"{where} is no block map")
        size, block = _number(text, "ImageSize", where), _number(text, "BlockSize", where)
        kind = _element(text, "ChecksumType") or ("sha1" if 'sha1="' in text else "sha256")
        if kind.lower() != "sha256":
            raise BadImage(f"{where} has checksums of the kind {kind}, not sha256", hint="make it anew with bmaptool")
        own = _element(text, "BmapFileChecksum").lower()
        if own and own != hashlib.sha256(text.replace(own, "0" * len(own)).encode()).hexdigest():
            raise BadImage(f"{where} is damaged: its own checksum does not match")
        if not 512 <= block <= 1 << 26 or block & (block - 1):
            raise BadImage(f"{where}: blocks of {block} bytes")
        extents: list[Extent] = []
        for digest, first, last in _RANGE.findall(text):
            offset, end = int(first) * block, min((int(last or first) + 1) * block, size)
            if offset < (extents[-1].end if extents else 0) or end <= offset:
                raise BadImage(f"{where}: the range {first}-{last or first} is out of order or beyond the image")
            if digest and len(digest) != 64:
                raise BadImage(f"{where}: {digest[:20]} is no SHA-256")
            extents.append(Extent(offset, end - offset, digest.lower()))
        if text.count("<Range") != len(extents):
            raise BadImage(f"{where}: {text.count('<Range') - len(extents)} of its ranges cannot be read")
        return cls(size, tuple(extents))

    def render(self) -> str:
        """As bmaptool reads it, format 2.0."""
        blocks = -(-self.size // BLOCK)
        ranges = []
        for extent in self.extents:
            first, last = extent.offset // BLOCK, (extent.end - 1) // BLOCK
            span = f"{first}-{last}" if last > first else f"{first}"
            checksum = f' chksum="{extent.sha256}"' if extent.sha256 else ""
            ranges.append(f"        <Range{checksum}> {span} </Range>\n")
        mapped = sum(-(-extent.length // BLOCK) for extent in self.extents)
        text = (
            '<?xml version="1.0" ?>\n<bmap version="2.0">\n'
            f"    <ImageSize> {self.size} </ImageSize>\n    <BlockSize> {BLOCK} </BlockSize>\n"
            f"    <BlocksCount> {blocks} </BlocksCount>\n    <MappedBlocksCount> {mapped} </MappedBlocksCount>\n"
            f"    <ChecksumType> sha256 </ChecksumType>\n"
            f"    <BmapFileChecksum> {'0' * 64} </BmapFileChecksum>\n"
            f"    <BlockMap>\n{''.join(ranges)}    </BlockMap>\n</bmap>\n"
        )
        return text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1)


def data_extents(fd: int, size: int) -> Iterator[Extent]:
    """What a file system says is data (SEEK_DATA, SEEK_HOLE); all of the file where it does not say."""
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            yield Extent(at, size - at)
            return
        at = min(os.lseek(fd, data, os.SEEK_HOLE), size)
        if data < at:
            yield Extent(data, at - data)


def _blocks(extents: Iterator[Extent], size: int) -> Iterator[Extent]:
    """The same in whole blocks, joined where they touch."""
    start = end = -1
    for extent in extents:
        first, last = extent.offset // BLOCK * BLOCK, min(-(-extent.end // BLOCK) * BLOCK, size)
        if first > end:
            if end > start:
                yield Extent(start, end - start)
            start = first
        end = last
    if end > start:
        yield Extent(start, end - start)


def _hash(fd: int, extent: Extent) -> str:
    digest, at = hashlib.sha256(), extent.offset
    while at < extent.end:
        data = os.pread(fd, min(PIECE, extent.end - at), at)
        if not data:
            raise BadImage("the image became shorter while it was read")
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>\s*([^<\s]+)\s*</{name}>", text)
    return found[1] if found else ""


def _number(text: str, name: str, where: str) -> int:
    value = _element(text, name)
    if not value.isascii() or not value.isdigit():
        raise BadImage(f"{where} is no block map: it has no {name}")
    return int(value)
