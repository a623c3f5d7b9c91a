"""Changes of a boot medium: small files on FAT, which has no journal, and whole partitions; on the medium on return."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from msrt.errors import DiskFull, InvalidImage, LocalError
from msrt.world.files import sync_directory
from msrt_device.updater.slots import ReadAt

__all__ = ["PIECE", "disk_fault", "gone", "put", "read_json", "sync_folder", "write_partition"]

PIECE: Final = 1 << 20


def read_json(path: Path) -> dict[str, Any]:
    """An object; empty where there is none, or no file."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            return value
    return {}


def put(path: Path, content: str | bytes) -> None:
    """A file that is whole under its name, on the medium when this returns."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def gone(path: Path) -> None:
    """No file has this name."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """All of the file system: FAT keeps its table apart from its folders."""
    sync_directory(folder)
    os.sync()


def write_partition(partition: Path, name: str, read: ReadAt, start: int, size: int) -> None:
    """`size` bytes of the image `name` from `start` on, onto a partition; then held against what the medium gives back.

    Raises InvalidImage (it does not fit), LocalError (it reads back otherwise), OSError.
    """
    places = [(offset, min(PIECE, size - offset)) for offset in range(0, size, PIECE)]
    fd = os.open(partition, os.O_RDWR | os.O_CLOEXEC)
    try:
        if size > os.lseek(fd, 0, os.SEEK_END):
            raise InvalidImage(f"{name} is larger than the partition {partition.name}", hint="flash the medium anew")
        for at, count in places:
            view = memoryview(read(start + at, count))
            while view:
                view = view[os.pwrite(fd, view, at + count - len(view)) :]
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for at, count in places:
            if os.pread(fd, count, at) != read(start + at, count):
                raise LocalError(f"{partition.name} does not read back as written", hint="the medium is worn out")
    finally:
        os.close(fd)


def disk_fault(error: OSError, slot: str) -> LocalError:
    """What went wrong with a slot, in our words."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"no room for slot {slot} on the boot partition")
    return LocalError(f"slot {slot}: {error.filename or ''} {error.strerror or error}")
