"""A node's state directory in the field: blobs as files, stores as SQLite files beside them.

DIR/NAME.sqlite           one store each
DIR/blobs/ab/abcd...      whole blobs, named by their SHA-256, in 256 folders
DIR/blobs/partial/abcd... unfinished ones
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msrt.errors import Conflict, Corrupt, DiskFull, InvalidAddress, LocalError, NotFound

if TYPE_CHECKING:
    from msrt.world.world import Check, Scratch, Spans

__all__ = ["FieldDisk", "FileBlobs", "check_digest", "disk_error", "sync_directory"]

CHUNK: Final = 1 << 20
"""Bytes hashed in one go when a partial blob has to be read again."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileBlobs:
    """Blobs on the file system. Safe to use from several threads, for one digest from one thread at a time.

    The hash of an unfinished blob is carried along while pieces arrive in order, so `finish` need not read it again;
    after a restart, or after a piece that was written twice, it does.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._partial = root / "partial"
        with _errors(root):
            self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hashes: dict[str, tuple[int, Any]] = {}
        self._over: dict[str, int] = {}
        """Bytes that came of blobs which are written over others: more lie there. What a death leaves of one is a piece
        with another digest than its name."""
        self._lock = threading.Lock()
        self._lasting: set[str] = set()
        """Folders whose own names are known to be on the disk."""

    def size(self, digest: str) -> int | None:
        try:
            return self._whole(digest).stat().st_size
        except FileNotFoundError:
            return None

    def partial(self, digest: str) -> int:
        if digest in self._over:
            return self._over[digest]
        try:
            return self._piece(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, digest: str, offset: int, data: bytes | memoryview, *, vouched: bool = False) -> None:
        """Write a piece where the last one ended, or over an earlier one; a gap raises Conflict."""
        path = self._piece(digest)
        with _errors(path):
            fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                have = self._over.get(digest, -1)
                if have < 0:
                    have = os.fstat(fd).st_size
                if offset > have:
                    raise Conflict(f"a piece at byte {offset} of blob {digest[:12]} leaves a gap after {have}")
                view = memoryview(data)
                while view:
                    done = os.pwrite(fd, view, offset + len(data) - len(view))
                    view = view[done:]
            finally:
                os.close(fd)
        if digest in self._over:
            self._over[digest] = max(have, offset + len(data))
        if not vouched:
            self._hashed(digest, offset, data)

    def finish(self, digest: str, *, sync: bool = True, vouched: bool = False, check: Check | None = None) -> None:
        """Verify, fsync, publish by rename. A blob that is already whole stays as it is."""
        path, whole = self._piece(digest), self._whole(digest)
        came = self._over.pop(digest, None)
        with self._lock:
            known = self._hashes.pop(digest, None)
        with _errors(path):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                if whole.exists():
                    return
                raise NotFound(f"no piece of blob {digest[:12]} is here") from None
            try:
                if came is not None:
                    os.ftruncate(fd, came)
                size = os.fstat(fd).st_size
                if check is not None:
                    check(memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""))
                elif not vouched:
                    _check_hash(digest, known[1] if known and known[0] == size else _hash_file(fd, size))
                if sync:
                    os.fsync(fd)
            except Corrupt:
                path.unlink()
                raise
            finally:
                os.close(fd)
            self._publish(path, whole, sync=sync)

    def read(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        path = self._whole(digest)
        with _errors(path):
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:
                raise NotFound(f"blob {digest[:12]} is not here") from None

    def file(self, digest: str) -> Path:
        return self._whole(digest)

    def adopt(self, path: Path, digest: str, *, sync: bool = True) -> None:
        """Fsync and rename. Raises DiskFull, LocalError."""
        with _errors(path):
            if sync:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            self._publish(path, self._whole(digest), sync=sync)

    def evolve(self, base: str, digest: str, start: int, span: int, work: Callable[[Spans], None]) -> None:
        """See `Disk.evolve`. Read and written by spans that stay in the cache: to change a file by its mapping takes
        four times as long. What a death leaves half-way is a piece with another digest than its name.
        """
        path = self._piece(digest)
        with _errors(path):
            try:
                self._whole(base).rename(path)
            except FileNotFoundError:
                raise NotFound(f"blob {base[:12]} is not here") from None
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            done = False
            try:
                work(_rewritten(fd, start, span))
                done = True
            finally:
                os.close(fd)
                if not done:
                    path.unlink()
            self._publish(path, self._whole(digest), sync=False)

    def displace(self, base: str, digest: str) -> None:
        """See `Disk.displace`. Pages that the file has are filled in half the time of fresh ones."""
        path = self._piece(digest)
        with _errors(path), suppress(FileNotFoundError):  # then it is written as any other
            self._whole(base).rename(path)
            self._over[digest] = 0

    def _publish(self, path: Path, whole: Path, *, sync: bool) -> None:
        folder = whole.parent
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
        path.rename(whole)
        if not sync:
            return
        sync_directory(folder)
        if folder.name not in self._lasting:
            sync_directory(self._root)
            self._lasting.add(folder.name)

    def delete(self, digest: str) -> None:
        with self._lock:
            self._hashes.pop(digest, None)
        self._over.pop(digest, None)
        with _errors(self._root):
            self._piece(digest).unlink(missing_ok=True)
            self._whole(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[tuple[str, int]]:
        """Whole blobs and their sizes, in order of digest."""
        for folder in sorted(self._root.iterdir()):
            if len(folder.name) == 2:
                for file in sorted(folder.iterdir()):
                    yield file.name, file.stat().st_size

    def _hashed(self, digest: str, offset: int, data: bytes | memoryview) -> None:
        with self._lock:
            upto, running = self._hashes.pop(digest, (0, None))
        if running is None and offset == 0:
            running = hashlib.sha256()
        if running is None or offset != upto:
            return
        running.update(data)
        with self._lock:
            self._hashes[digest] = (upto + len(data), running)

    def _whole(self, digest: str) -> Path:
        check_digest(digest)
        return self._root / digest[:2] / digest

    def _piece(self, digest: str) -> Path:
        check_digest(digest)
        return self._partial / digest


class FieldDisk:
    """The state directory of a node in the field. `max_store_bytes` bounds each store's file (0: no bound)."""

    def __init__(self, path: Path, *, max_store_bytes: int = 0) -> None:
        self.path: Path | None = path
        with _errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = path
        self._max_store_bytes = max_store_bytes
        self._stores: dict[str, Any] = {}
        self._blobs: FileBlobs | None = None

    def store(self, name: str) -> Any:
        """The store of that name; asked twice, the same object."""
        from msrt.world.sqlite import SqliteStore  # noqa: PLC0415 - tools that only read blobs need no SQLite

        if name not in self._stores:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
                raise InvalidAddress(f"{name!r} cannot name a store", hint="use a-z, 0-9 and -")
            self._stores[name] = SqliteStore(self._root / f"{name}.sqlite", max_bytes=self._max_store_bytes)
        return self._stores[name]

    def blobs(self) -> FileBlobs:
        if self._blobs is None:
            self._blobs = FileBlobs(self._root / "blobs")
        return self._blobs

    def free_bytes(self) -> int | None:
        try:
            found = os.statvfs(self._root)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def digests(self) -> Iterator[tuple[str, int]]:
        return self.blobs().digests()

    def file(self, digest: str) -> Path:
        return self.blobs().file(digest)

    def adopt(self, path: Path, digest: str, *, sync: bool = True) -> None:
        self.blobs().adopt(path, digest, sync=sync)

    def evolve(self, base: str, digest: str, start: int, span: int, work: Callable[[Spans], None]) -> None:
        self.blobs().evolve(base, digest, start, span, work)

    def displace(self, base: str, digest: str) -> None:
        self.blobs().displace(base, digest)

    def scratch(self, each: int) -> Scratch:
        from msrt.world.scratch import FileScratch  # noqa: PLC0415 - who never needs one runs without it

        return FileScratch(self._root, each)

    def close(self) -> None:
        """Close the stores; what was not committed is dropped."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()


def check_digest(digest: str) -> None:
    """Raise InvalidAddress unless it is 64 lower-case hex digits: digests arrive from peers and become file names."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidAddress(f"{digest[:80]!r} is no SHA-256 digest")


def disk_error(error: OSError, path: Path) -> LocalError:
    """The operating system's word about a file, as ours."""
    if error.errno in _FULL:
        return DiskFull(f"the disk took no more of {path}")
    return LocalError(f"{path}: {error.strerror or error}")


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rewritten(fd: int, start: int, span: int) -> Spans:
    """Each span of a file, written back as whoever takes the next one left it."""
    room = memoryview(bytearray(span))
    while count := os.preadv(fd, [room], start):
        yield start, room[:count]
        os.pwrite(fd, room[:count], start)
        start += count


def _check_hash(digest: str, running: Any) -> None:
    found = running.hexdigest()
    if found != digest:
        raise Corrupt(f"blob {digest[:12]} has another digest: {found[:12]}", hint="fetch it again")


def _hash_file(fd: int, size: int) -> Any:
    running = hashlib.sha256()
    for offset in range(0, size, CHUNK):
        running.update(os.pread(fd, CHUNK, offset))
    return running


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
