"""Large buffers made, read and written so that the other threads of the process can run.

bytes(), .tobytes() and b"".join() of views keep every one of them waiting, the event loop's among them, for as long as
the memory is copied and its pages are first touched: tens of milliseconds for 40 MB. numpy lets go of the interpreter
meanwhile. One read() or write() of that size does so too, but keeps the core: the kernel lets nobody else on it before
it is done.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["SLICE", "Buffer", "Rooms", "joined", "read_file", "room_for", "write_file"]

Buffer: TypeAlias = bytes | bytearray | memoryview
SLICE: Final = 1 << 20
"""Bytes read or written at once."""
HUGE: Final = 4 << 20


def joined(pieces: Iterable[Buffer]) -> memoryview:
    """One read-only buffer of all their bytes, a copy."""
    import numpy as np  # noqa: PLC0415 - who joins nothing large runs without it

    views = [memoryview(piece) for piece in pieces]
    whole = np.empty(sum(view.nbytes for view in views), np.uint8)
    at = 0
    for view in views:
        if view.nbytes:
            whole[at : at + view.nbytes] = np.frombuffer(view, np.uint8)
            at += view.nbytes
    whole.flags.writeable = False
    return whole.data


def room_for(size: int) -> memoryview:
    """A buffer to write to, of one byte and more; its pages come when they are first touched, two MiB at a time."""
    room = mmap.mmap(-1, size)
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)


class Rooms:
    """Large buffers used again: the kernel zeroes fresh pages, which takes longer than filling them. Of one size at a
    time, as the updates of a job are.
    """

    def __init__(self, most: int) -> None:
        """`most`: so many are kept."""
        self._most, self._free, self._size = most, list[memoryview](), 0

    def take(self, size: int) -> memoryview:
        """One to write to, with what its last user left in it."""
        if size == self._size and self._free:
            return self._free.pop()
        return room_for(size)

    def give(self, room: Buffer) -> None:
        """Its last user is done with it. What was not taken here is not kept."""
        if not isinstance(room, memoryview) or room.readonly or not isinstance(room.obj, mmap.mmap):
            return
        if len(room) != self._size:
            self._size = len(room)
            self._free.clear()
        if len(self._free) < self._most:
            self._free.append(room)

    def clear(self) -> None:
        """Nothing more is expected."""
        self._free.clear()


def read_file(path: Path) -> Buffer:
    """All of a file. Blocking. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        if size <= SLICE:
            return file.read()
        whole, at = room_for(size), 0
        while at < size and (count := file.readinto(whole[at : at + SLICE])):
            at += count
        return whole[:at].toreadonly()


def write_file(path: Path, data: Buffer) -> None:
    """All of it into a file, over what that held: to give its pages back and take fresh ones costs more than the copy.
    Blocking. Raises OSError.
    """
    view = memoryview(data).cast("B")
    with open(path, "wb", buffering=0, opener=_kept) as file:
        while view:
            view = view[file.write(view[:SLICE]) :]
        file.truncate()


def _kept(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)
