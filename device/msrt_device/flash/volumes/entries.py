"""A FAT directory's entries: 32 bytes each, a long name in the ones before the entry that it names."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msrt.errors import CallerError

__all__ = ["ENTRY", "Entry", "entries_for", "label_of", "parse"]

ENTRY: Final = 32
FREE: Final = 0xE5
END: Final = 0x00
LONG: Final = 0x0F
LABEL: Final = 0x08
FOLDER: Final = 0x10
ARCHIVE: Final = 0x20
DATE: Final = 0x21  # 1980-01-01: the same identity makes the same bytes
_UNFIT: Final = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_SHORT: Final = re.compile(r"[^A-Z0-9!#$%&'()@^_`{}~-]")


@dataclass(frozen=True)
class Entry:
    """A file or folder of a directory."""

    name: str
    """Long, as written; compared without case."""
    short: bytes
    """8.3, 11 bytes."""
    cluster: int
    size: int
    folder: bool
    slots: tuple[int, int]
    """First and last of its entries in the directory."""


def parse(data: bytes) -> Iterator[Entry]:
    """All files and folders; a long name that does not belong to its entry is ignored."""
    pieces: list[bytes] = []
    begun, checksum = 0, -1
    for slot in range(len(data) // ENTRY):
        raw = data[slot * ENTRY : (slot + 1) * ENTRY]
        if raw[0] == END:
            return
        if raw[0] == FREE:
            pieces = []
            continue
        if raw[11] & 0x3F == LONG:
            if raw[0] & 0x40:
                pieces, begun = [], slot
            pieces.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
            checksum = raw[13]
            continue
        short = bytes(raw[:11])
        if not raw[11] & LABEL:
            named = bool(pieces) and checksum == _checksum(short)
            high, low, size = struct.unpack("<20xH4xHI", raw)
            yield Entry(
                _long(pieces) if named else _plain(short), short, high << 16 | low, size, bool(raw[11] & FOLDER),
                (begun if named else slot, slot),
            )  # fmt: skip
        pieces = []


def label_of(data: bytes) -> str:
    """The volume label in a root directory, empty if there is none."""
    for slot in range(len(data) // ENTRY):
        raw = data[slot * ENTRY : (slot + 1) * ENTRY]
        if raw[0] == END:
            break
        if raw[0] != FREE and raw[11] & 0x3F != LONG and raw[11] & LABEL:
            return bytes(raw[:11]).decode("ascii", "replace").rstrip()
    return ""


def entries_for(name: str, cluster: int, size: int, taken: Iterable[bytes]) -> bytes:
    """The entries of a new file: its long name, then the short alias that nobody has. Raises CallerError."""
    if not name or len(name) > 255 or _UNFIT.search(name) or name != name.strip(". "):
        raise CallerError(f"{name!r} cannot be a file's name on FAT")
    short = _alias(name, set(taken))
    text = name.encode("utf-16-le")
    if len(text) % 26:
        text += b"\0\0"
    text += b"\xff" * (-len(text) % 26)
    count, out = len(text) // 26, b""
    for number in range(count, 0, -1):
        part = text[(number - 1) * 26 : number * 26]
        order = number | (0x40 if number == count else 0)
        out += bytes([order]) + part[:10] + bytes([LONG, 0, _checksum(short)]) + part[10:22] + b"\0\0" + part[22:]
    dated = struct.pack("<BBBHHHHHHHI", ARCHIVE, 0, 0, 0, DATE, DATE, cluster >> 16, 0, DATE, cluster & 0xFFFF, size)
    return out + short + dated


def _alias(name: str, taken: set[bytes]) -> bytes:
    stem, dot, extension = name.upper().rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem, extension = _SHORT.sub("", stem.replace(".", "")), _SHORT.sub("", extension)[:3]
    plain = f"{stem:8}{extension:3}".encode()
    if len(stem) <= 8 and plain not in taken and _plain(plain) == name.lower():
        return plain
    for number in range(1, 1_000_000):
        tail = f"~{number}"
        short = f"{stem[: 8 - len(tail)] + tail:8}{extension:3}".encode()
        if short not in taken:
            return short
    raise CallerError(f"no short name is left for {name!r}")


def _checksum(short: bytes) -> int:
    value = 0
    for byte in short:
        value = ((value & 1) << 7 | value >> 1) + byte & 0xFF
    return value


def _long(pieces: list[bytes]) -> str:
    return b"".join(pieces).decode("utf-16-le", "replace").partition("\0")[0].rstrip("\uffff")


def _plain(short: bytes) -> str:
    stem, extension = short[:8].decode("cp437").rstrip(), short[8:].decode("cp437").rstrip()
    return (f"{stem}.{extension}" if extension else stem).lower()
