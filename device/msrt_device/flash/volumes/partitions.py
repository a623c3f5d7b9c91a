"""Where the partitions of a medium lie: GPT with its checksums, else the four of an MBR."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final, Protocol

from msrt_device.flash.writing.errors import BadImage

__all__ = ["Bytes", "Partition", "Readable", "partitions"]

SECTOR: Final = 512
GPT_MAGIC: Final = b"EFI PART"
_GPT: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
TABLE_LIMIT: Final = 1 << 20


class Readable(Protocol):
    """A medium, or an image, by bytes."""

    def read(self, offset: int, length: int) -> bytes: ...


class Bytes(Readable, Protocol):
    """A medium by bytes."""

    def write(self, offset: int, data: memoryview) -> None: ...


@dataclass(frozen=True)
class Partition:
    """Bytes of the medium, and what the table calls them."""

    number: int
    """From 1."""
    offset: int
    size: int
    name: str
    """GPT's; an MBR has none."""


def partitions(medium: Readable) -> list[Partition]:
    """In the table's order; empty where there is no table. Raises BadImage for a GPT whose checksums do not match."""
    first = medium.read(0, SECTOR)
    for sector in (512, 4096):
        header = medium.read(sector, SECTOR)
        if header.startswith(GPT_MAGIC):
            return _gpt(medium, header, sector)
    if first[510:512] != b"\x55\xaa":
        return []
    found = []
    for number in range(4):
        kind, start, count = struct.unpack_from("<4xB3xII", first, 446 + 16 * number)
        if kind and start and count:
            found.append(Partition(number + 1, start * SECTOR, count * SECTOR, ""))
    return found


def _gpt(medium: Readable, header: bytes, sector: int) -> list[Partition]:
    _, _, size, crc, _, _, _, _, _, _, table, count, width, table_crc = _GPT.unpack_from(header)
    if not _GPT.size <= size <= SECTOR or zlib.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
        raise BadImage("the partition table (GPT) is damaged: its header's checksum does not match")
    if width < _ENTRY.size or count * width > TABLE_LIMIT:
        raise BadImage(f"the partition table (GPT) has {count} entries of {width} bytes")
    entries = medium.read(table * sector, count * width)
    if zlib.crc32(entries) != table_crc:
        raise BadImage("the partition table (GPT) is damaged: its entries' checksum does not match")
    found = []
    for number in range(count):
        kind, _, first, last, _, name = _ENTRY.unpack_from(entries, number * width)
        if any(kind):
            text = name.decode("utf-16-le", "replace").partition("\0")[0]
            found.append(Partition(number + 1, first * sector, (last - first + 1) * sector, text))
    return found
