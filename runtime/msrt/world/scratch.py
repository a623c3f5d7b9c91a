"""Bytes that lie on the disk and need not survive the process: a file without a name, mapped into memory.

The kernel takes it away with the process, however that ends, and its pages from memory where memory is short.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Final

from msrt.buffers import SLICE, Buffer
from msrt.errors import LocalError
from msrt.world.files import disk_error

__all__ = ["FileScratch"]

SLOTS: Final = 64
"""Mapped at once: a mapping holds a file descriptor, and a process may have few."""


class FileScratch:
    """Slots of one size in a file that grows as they are needed; what was freed is used again. Safe to use from several
    threads.
    """

    def __init__(self, directory: Path, each: int) -> None:
        self._each = max(each, 1)
        self._slot = -(-self._each // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._directory = directory
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                self._fd = os.dup(file.fileno())
        except OSError as error:
            raise disk_error(error, directory) from error
        weakref.finalize(self, os.close, self._fd)
        self._maps: list[mmap.mmap] = []
        self._used: dict[str, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer) -> memoryview:
        """Raises DiskFull, LocalError (it is larger than a slot)."""
        view = memoryview(data).cast("B")
        if len(view) > self._each:
            raise LocalError(f"{len(view)} bytes for a slot of {self._each}")
        with self._lock:
            if not self._free:
                self._grow()
            slot = self._free.pop()
            mapped = self._maps[slot // SLOTS]
        try:
            for start in range(0, len(view), SLICE):
                self._write(view[start : start + SLICE], slot * self._slot + start)
        except OSError as error:
            with self._lock:
                self._free.append(slot)
            raise disk_error(error, self._directory) from error
        self.free(key)
        with self._lock:
            self._used[key] = slot
        start = slot % SLOTS * self._slot
        return memoryview(mapped)[start : start + len(view)]

    def free(self, key: str) -> None:
        with self._lock:
            slot = self._used.pop(key, None)
            if slot is not None:
                self._free.append(slot)

    def release(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in list(self._maps):
                mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """What is still looked at stays until nobody looks at it. The descriptor goes with this object: a thread that
        still writes must not find another file behind it.
        """
        with self._lock:
            self._maps.clear()
            self._used.clear()
            self._free.clear()

    def _grow(self) -> None:
        first, length = len(self._maps) * SLOTS, SLOTS * self._slot
        try:
            os.ftruncate(self._fd, (first + SLOTS) * self._slot)  # holes: the disk gives room as it is written
            self._maps.append(mmap.mmap(self._fd, length, access=mmap.ACCESS_READ, offset=first * self._slot))
        except OSError as error:
            raise disk_error(error, self._directory) from error
        self._free.extend(range(first + SLOTS - 1, first - 1, -1))

    def _write(self, view: memoryview, at: int) -> None:
        while view:
            done = os.pwrite(self._fd, view, at)
            view, at = view[done:], at + done
