"""An image that was unpacked, read as if it were still in one piece: for a delta the device needs its bytes back.

Of the tar only what lies between its files is kept; the files are where they were unpacked to (as tar-split does). So
is the index of its chunks, where it is at hand: to cut a whole system anew would keep a small board busy for minutes.
"""

from __future__ import annotations

import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from msrt.artifacts.chunks import index_of, pack_index
from msrt_device.updater.slots import Found, ReadAt

__all__ = ["remember", "remember_files", "unpacked"]

MAP: Final = "map.json"
FRAME: Final = "frame"
INDEX: Final = "index"


class _Part(NamedTuple):
    """Some bytes of the image, and where they are now: a file's from its beginning, or `FRAME` from `at` on."""

    start: int
    size: int
    name: str
    at: int


def remember(archive: tarfile.TarFile, size: int, read: ReadAt, folder: Path, index: bytes) -> None:
    """Write down where the bytes of an unpacked tar are, and those that are in no file. Blocking."""
    folder.mkdir()
    files = sorted((member.offset_data, member.size, member.name) for member in archive.getmembers() if member.isreg())
    at, between, parts = 0, 0, list[_Part]()
    with (folder / FRAME).open("wb") as frame:
        for start, count, name in [*files, (size, 0, "")]:
            if start > at:
                frame.write(read(at, start - at))
                parts.append(_Part(at, start - at, "", between))
                between += start - at
            if count:
                parts.append(_Part(start, count, name, 0))
            at = start + count
    _put(folder, size, parts, index)


def remember_files(files: Mapping[str, Path], folder: Path) -> None:
    """The same for an image that never was one: these files in a row. Blocking."""
    at, parts = 0, list[_Part]()
    for name, path in files.items():
        size = path.stat().st_size
        parts.append(_Part(at, size, name, 0))
        at += size
    (folder / FRAME).touch()
    read = _reader(parts, folder / FRAME, lambda name: files[name])
    _put(folder, at, parts, pack_index(index_of(read, at)))


def _put(folder: Path, size: int, parts: list[_Part], index: bytes) -> None:
    (folder / INDEX).write_bytes(index)
    (folder / MAP).write_text(json.dumps({"size": size, "parts": parts}), encoding="utf-8")


def unpacked(folder: Path, place: Callable[[str], Path]) -> Found | None:
    """The image whose files `place` finds by their names; None where nobody wrote down how. What is missing or shorter
    now reads as zeros. Blocking."""
    try:
        found = json.loads((folder / MAP).read_text(encoding="utf-8"))
        parts = [_Part(*part) for part in found["parts"]]
        size: int = found["size"]
        index = (folder / INDEX).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Found(size, _reader(parts, folder / FRAME, place), index)


def _reader(parts: list[_Part], frame: Path, place: Callable[[str], Path]) -> ReadAt:
    starts = [part.start for part in parts]

    def read(offset: int, count: int) -> bytes:
        out = []
        number = bisect_right(starts, offset) - 1
        while count > 0 and 0 <= number < len(parts):
            part = parts[number]
            skip = offset - part.start
            here = min(count, part.size - skip)
            out.append(_bytes(place(part.name) if part.name else frame, part.at + skip, here))
            offset, count, number = offset + here, count - here, number + 1
        return b"".join(out)

    return read


def _bytes(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError:
        data = b""
    return data.ljust(size, b"\0")
