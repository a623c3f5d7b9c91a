"""An image that was unpacked, read as if it were still in one piece: for a delta the device needs its bytes back.

Of the tar only what lies between its files is kept; the files are where they were unpacked to (as tar-split does).
"""

from __future__ import annotations

import json
import os
import tarfile
from bisect import bisect_right
from pathlib import Path
from typing import Final, NamedTuple

from msrt_device.updater.slots import ReadAt

__all__ = ["remember", "unpacked"]

MAP: Final = "map.json"
FRAME: Final = "frame"


class _Part(NamedTuple):
    """Some bytes of the image, and where they are now: a file's from its beginning, or `FRAME` from `at` on."""

    start: int
    size: int
    name: str
    at: int


def remember(archive: tarfile.TarFile, size: int, read: ReadAt, folder: Path) -> None:
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
    (folder / MAP).write_text(json.dumps({"size": size, "parts": parts}), encoding="utf-8")


def unpacked(slot: Path, folder: Path) -> tuple[int, ReadAt] | None:
    """Size and reader of the image that was unpacked into `slot`; None where nobody wrote down how. What is missing or
    shorter now reads as zeros. Blocking."""
    try:
        found = json.loads((folder / MAP).read_text(encoding="utf-8"))
        parts = [_Part(*part) for part in found["parts"]]
        size: int = found["size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    starts = [part.start for part in parts]

    def read(offset: int, count: int) -> bytes:
        out = []
        number = bisect_right(starts, offset) - 1
        while count > 0 and 0 <= number < len(parts):
            part = parts[number]
            skip = offset - part.start
            here = min(count, part.size - skip)
            out.append(_bytes(slot / part.name if part.name else folder / FRAME, part.at + skip, here))
            offset, count, number = offset + here, count - here, number + 1
        return b"".join(out)

    return size, read


def _bytes(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError:
        data = b""
    return data.ljust(size, b"\0")
