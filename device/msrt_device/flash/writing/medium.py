"""The medium: whether it may be written at all, and then the open thing itself."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections import deque
from pathlib import Path
from typing import Final, Protocol, Self

from msrt_device.flash.writing.errors import MediumFailed, MediumRefused
from msrt_device.flash.writing.machine import Disk, Machine

__all__ = ["Medium", "OpenMedium", "Sink", "check", "describe"]

PUNCH_KEEP_SIZE: Final = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
SYNC_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
SYNC_WAIT: Final = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER
BLKFLSBUF: Final = 0x1261
ALIGN: Final = 4096
ENDLESS: Final = 1 << 62
"""Size of a file: it grows."""
WRITEBACK: Final = 32 << 20
"""Bytes that may wait in the page cache: enough to keep the medium busy, few enough that the bar tells the truth."""
DIRECT: Final = 1 << 20
"""Bytes of a write from which on it goes past the page cache: no copy, no pages that the kernel has to take care of.
Smaller ones are better gathered by it."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Sink(Protocol):
    """What the writer writes to and the check reads from. A test has one in memory that loses power."""

    size: int
    """Bytes that fit."""

    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> bool:
        """Make it read as zeros without writing them; False where the medium cannot."""

    def sync(self) -> None:
        """What was written before is on the medium when it returns."""

    def read(self, offset: int, length: int) -> bytes:
        """As the medium holds it: not from a cache, after a `sync`."""


class Medium:
    """A target as it was found: a regular file, there or not, or a block device."""

    def __init__(self, path: Path, disk: Disk | None, size: int) -> None:
        self.path, self.disk, self.size = path, disk, size

    @property
    def title(self) -> str:
        """What a person is asked about."""
        return f"{self.disk.title} ({self.path})" if self.disk else f"the file {self.path}, {self.size / 1e9:.1f} GB"


def describe(path: Path, machine: Machine) -> Medium:
    """Look at a target. Raises MediumRefused for what is neither a file nor a block device, or a file in use."""
    try:
        found = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise MediumRefused("kind", f"there is no folder {path.parent}") from None
        if Path("/dev") in path.absolute().parents:
            raise MediumRefused("kind", f"there is no device {path}", hint="is it plugged in? (lsblk)") from None
        return Medium(path, None, 0)
    if stat.S_ISBLK(found.st_mode):
        disk = machine.disk(os.major(found.st_rdev), os.minor(found.st_rdev))
        return Medium(path, disk, disk.size)
    if not stat.S_ISREG(found.st_mode):
        serial = stat.S_ISCHR(found.st_mode) and path.name.startswith("tty")
        hint = "boards on a serial line have tools of their own: msrt device targets" if serial else "see lsblk"
        raise MediumRefused("kind", f"{path} is neither a file nor a disk", hint=hint)
    if loop := machine.loop_over(path):
        raise MediumRefused("in_use", f"{path} is in use by {loop}", hint=f"losetup -d {loop}")
    return Medium(path, None, found.st_size)


def check(medium: Medium, need: int, *, force_non_removable: bool = False) -> None:
    """May an image of `need` bytes (0: not known yet) be written there? Raises MediumRefused that says why not."""
    disk = medium.disk
    if disk is None:
        return
    path = medium.path
    if disk.whole != disk.name:
        raise MediumRefused("partition", f"{path} is a partition of {disk.whole}", hint=f"name /dev/{disk.whole}")
    for use in disk.uses:
        if use.kind == "system":
            raise MediumRefused("system", f"{path} holds the running system ({use.where})", hint="name another disk")
        if use.kind == "swap":
            raise MediumRefused("swap", f"{use.part} of {path} is swap space", hint=f"swapoff /dev/{use.part}")
        if use.kind == "mounted":
            raise MediumRefused("mounted", f"{use.part} is mounted at {use.where}", hint=f"umount {use.where}")
        raise MediumRefused("holder", f"{use.part} is in use by {use.where}", hint=f"stop {use.where} first")
    if disk.read_only:
        raise MediumRefused("read_only", f"{path} is read-only", hint="look for its write-protect switch")
    if disk.size < max(need, 1):
        raise MediumRefused("too_small", f"{path} has {disk.size} bytes, the image {need}", hint="use a larger one")
    if not disk.removable and not force_non_removable:
        raise MediumRefused(
            "not_removable", f"{path} ({disk.title}) is no removable medium",
            hint="if it is the right one, say --force-non-removable",
        )  # fmt: skip


class OpenMedium:
    """A medium held open for us alone, from the check to the end of the verification."""

    def __init__(self, medium: Medium, fd: int) -> None:
        self.medium, self._fd = medium, fd
        self.size = medium.size if medium.disk else ENDLESS
        self._dirty: deque[tuple[int, int]] = deque()
        self._direct = -1
        self._writes_direct = True
        self._blank = False

    @classmethod
    def open(cls, medium: Medium) -> Self:
        """Take it; nothing is changed yet, but a file that was not there is made.

        Raises MediumRefused (in_use: somebody else has it), MediumFailed.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if medium.disk else os.O_CREAT)
        try:
            fd = os.open(medium.path, flags, 0o600)
            if medium.disk is None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EBUSY, errno.EWOULDBLOCK}:
                raise MediumRefused("in_use", f"{medium.path} is in use by another program") from None
            if error.errno == errno.EROFS:
                raise MediumRefused("read_only", f"{medium.path} is read-only") from None
            raise MediumFailed(f"cannot open {medium.path}: {error.strerror}") from error
        return cls(medium, fd)

    def blank(self) -> None:
        """A file's old content is cut off; its length stays, as zeros."""
        if self.medium.disk is None:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.medium.size)
            self._blank = True

    def grow(self, size: int) -> None:
        """A file is at least so long; a disk is what it is."""
        if self.medium.disk is None and os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)

    def write(self, offset: int, data: memoryview) -> None:
        done = 0
        try:
            if self._writes_direct and len(data) >= DIRECT and not (offset | len(data) | _address(data)) % ALIGN:
                done = self._write_direct(offset, data)
            buffered = done
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        except OSError as error:
            raise self._failed("write", offset + done, error) from error
        if buffered < len(data):
            self._writeback(offset + buffered, len(data) - buffered)

    def _write_direct(self, offset: int, data: memoryview) -> int:
        """Bytes that went there: not all of them where a file system cannot. Raises OSError."""
        done = 0
        try:
            while done < len(data) and not done % ALIGN:
                done += os.pwrite(self._open_direct(), data[done:], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._writes_direct = False
        return done

    def _writeback(self, offset: int, length: int) -> None:
        """The kernel begins to write at once, and we wait for what is old: else it would all wait for the last sync."""
        self._sync_range(offset, length, SYNC_WRITE)
        self._dirty.append((offset, length))
        while sum(size for _, size in self._dirty) > WRITEBACK:
            self._sync_range(*self._dirty.popleft(), SYNC_WAIT)

    def _sync_range(self, offset: int, length: int, how: int) -> None:
        _libc.sync_file_range(self._fd, ctypes.c_int64(offset), ctypes.c_int64(length), how)  # a hint: sync() decides

    def zero(self, offset: int, length: int) -> bool:
        if self._blank:
            return True
        # On a disk: only if it does so itself, in no time; the kernel writes no zeros for it.
        span = (ctypes.c_int64(offset), ctypes.c_int64(length))
        return bool(_libc.fallocate(self._fd, PUNCH_KEEP_SIZE, *span) == 0)

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("write", 0, error) from error
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if self.medium.disk is not None:
            with contextlib.suppress(OSError):  # only root may; reads are direct all the same
                fcntl.ioctl(self._fd, BLKFLSBUF, 0)

    def read(self, offset: int, length: int) -> bytes:
        """Past the page cache (O_DIRECT) where the file system can, else after the cache was told to forget."""
        try:
            try:
                return self._read(self._open_direct(), offset, length)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            return self._read(self._fd, offset, length)
        except OSError as error:
            raise self._failed("read", offset, error) from error

    @staticmethod
    def _read(fd: int, offset: int, length: int) -> bytes:
        first = offset // ALIGN * ALIGN
        size = -(-(offset + length - first) // ALIGN) * ALIGN
        with mmap.mmap(-1, size) as buffer:  # page-aligned, as O_DIRECT wants it
            have = 0
            while have < offset + length - first:
                got = os.preadv(fd, [memoryview(buffer)[have:]], first + have)
                have += got
                if got % ALIGN or not got:
                    break  # the end
            return buffer[offset - first : min(have, offset - first + length)]

    def _open_direct(self) -> int:
        """The same thing, whatever its name means by now; some file systems take O_DIRECT here and refuse it later."""
        if self._direct < 0:
            path = f"/proc/self/fd/{self._fd}"
            try:
                self._direct = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            except OSError:
                self._direct, self._writes_direct = self._fd, False
        return self._direct

    def close(self) -> None:
        for fd in {self._fd, self._direct} - {-1}:
            os.close(fd)
        self._fd = self._direct = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _failed(self, what: str, offset: int, error: OSError) -> MediumFailed:
        hint = "free some room" if error.errno == errno.ENOSPC and self.medium.disk is None else None
        return MediumFailed(f"cannot {what} {self.medium.path} at byte {offset}: {error.strerror}", hint=hint)


def _address(data: memoryview) -> int:
    if data.readonly:  # zeros: nothing that direct writes would be worth it for
        return 1
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
