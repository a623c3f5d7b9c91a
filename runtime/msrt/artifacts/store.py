"""A node's artifacts: put, verified read, resumable fetch, eviction to a bound.

Everything that blocks goes through `World.offload`, hashing included. Bytes are only ever handed out verified: a whole
read is hashed each time, a lent artifact (served by offset) once per process and again whenever a child doubts it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final
from weakref import WeakValueDictionary

import structlog

from msrt.artifacts.flights import Flights
from msrt.artifacts.sink import SLICE, BlobSink
from msrt.errors import Corrupt, DiskFull, LocalError, MsrtError, NotFound, Unavailable
from msrt.world.world import Blobs, World

__all__ = ["ArtifactStore", "BlobSink", "Fetch", "Lent"]

log = structlog.get_logger()

Bytes = bytes
"""Because a store's own `bytes` is a number."""
Fetch = Callable[[str, int, BlobSink], Awaitable[object]]
"""fetch(digest, offset, sink): bring the bytes from `offset` on into the sink, and return once it is complete."""


class Lent:
    """An artifact in use: not evicted while it is lent."""

    def __init__(self, store: ArtifactStore, digest: str, size: int) -> None:
        self._store, self.digest, self.size = store, digest, size

    async def read(self, offset: int, size: int) -> Bytes:
        """Bytes from an offset, shorter only at the end (a `msrt.hop` Reader)."""
        data: Bytes = await self._store.offload(self._store.blobs.read, self.digest, offset, size)
        return data


class ArtifactStore:
    """The artifacts on this node's disk, at most `bound_bytes` of them together (0: no bound).

    Beyond the bound the least recently used go, but never a pinned one nor one in use: when only those are left,
    DiskFull is raised. Pin what must stay before the first `put` or `ensure` after a start.
    """

    def __init__(self, world: World, *, bound_bytes: int = 0) -> None:
        self.blobs: Final[Blobs] = world.disk.blobs()
        self.offload: Final = world.offload
        self.bound_bytes = bound_bytes
        self.corrupt = 0
        """Damaged artifacts found, on disk or on the way."""
        self.evicted = 0
        self._sizes: OrderedDict[str, int] = OrderedDict(world.disk.digests())
        """Least recently used first."""
        self._pins: dict[str, frozenset[str]] = {}
        self._using: Counter[str] = Counter()
        self._lendable: set[str] = set()
        self._flights = Flights()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reserved = 0

    @property
    def bytes(self) -> int:
        """On disk, whole artifacts only."""
        return sum(self._sizes.values())

    def has(self, digest: str) -> bool:
        return digest in self._sizes

    def size(self, digest: str) -> int | None:
        """Bytes of an artifact that is here."""
        return self._sizes.get(digest)

    def digests(self) -> list[str]:
        """All that is here, least recently used first."""
        return list(self._sizes)

    def pin(self, digests: Iterable[str], owner: str = "") -> None:
        """What must not be evicted for the sake of `owner`; replaces what that owner pinned before."""
        self._pins[owner] = frozenset(digests)

    # --- in ----------------------------------------------------------------------------------------------------

    async def put_bytes(self, data: Bytes | memoryview) -> str:
        """Store; the digest. Raises DiskFull."""
        digest: str = await self.offload(lambda: hashlib.sha256(data).hexdigest())
        view = memoryview(data).cast("B")
        return await self._put(digest, len(view), lambda: self._write(digest, _slices(view)))

    async def put_file(self, path: Path) -> str:
        """Store a file's bytes; the digest. Raises NotFound, DiskFull, Corrupt (it changed meanwhile)."""
        try:
            digest, size = await self.offload(_hash_file, path)
            return await self._put(digest, size, lambda: self._write_file(digest, path))
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {path}") from error
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror or error}") from error

    async def _put(self, digest: str, size: int, write: Callable[[], None]) -> str:
        async with self.lock(digest):
            if self.has(digest):
                try:
                    await self.verify(digest)
                except Corrupt:
                    log.info("artifact.replaced", digest=digest)
                else:
                    return digest
            await self._make_room(size)
            self._reserved += size
            try:
                await self._retrying(write)
            finally:
                self._reserved -= size
            self.arrived(digest, size)
        return digest

    def _write(self, digest: str, pieces: Iterable[memoryview | Bytes]) -> None:
        self.blobs.delete(digest)
        offset = 0
        for piece in pieces:
            self.blobs.write(digest, offset, piece)
            offset += len(piece)
        if not offset:
            self.blobs.write(digest, 0, b"")
        self.blobs.finish(digest)

    def _write_file(self, digest: str, path: Path) -> None:
        with path.open("rb") as file:
            self._write(digest, _pieces(file))

    def arrived(self, digest: str, size: int) -> None:
        """A whole, verified blob is on disk."""
        self._sizes[digest] = size
        self._sizes.move_to_end(digest)

    def lock(self, digest: str) -> asyncio.Lock:
        """Held by whoever writes that blob."""
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        return lock

    # --- out ---------------------------------------------------------------------------------------------------

    async def read(self, digest: str) -> Bytes:
        """All bytes, verified. Raises NotFound, Corrupt (then it is gone from the disk: fetch it again)."""
        with self._use(digest):
            data: Bytes = await self.offload(self._read_verified, digest)
            self._touch(digest)
        return data

    async def get(self, digest: str, fetch: Fetch, size: int = -1) -> Bytes:
        """All bytes, from this disk if they are here and sound, else through `fetch`."""
        if self.has(digest):
            try:
                return await self.read(digest)
            except (Corrupt, NotFound) as error:
                log.warning("artifact.refetched", digest=digest, code=error.code)
        await self.ensure(digest, fetch, size)
        return await self.read(digest)

    async def verify(self, digest: str) -> None:
        """Read it all and compare. Raises NotFound, Corrupt (then it is gone)."""
        with self._use(digest):
            await self.offload(self._read_verified, digest)
        self._lendable.add(digest)

    @asynccontextmanager
    async def lend(self, digest: str, *, suspect: bool = False) -> AsyncIterator[Lent]:
        """Use an artifact by offset; `suspect`: someone got bad bytes, look at the disk again.

        Raises NotFound, Corrupt (then it is gone).
        """
        with self._use(digest):
            self.used(digest, 1)
        try:
            if suspect or digest not in self._lendable:
                await self.verify(digest)
            self._touch(digest)
            yield Lent(self, digest, self._sizes[digest])
        finally:
            self.used(digest, -1)

    def _read_verified(self, digest: str) -> Bytes:
        data = self.blobs.read(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            self.blobs.delete(digest)
            raise Corrupt(f"artifact {digest[:12]} is damaged on disk", hint="it is fetched again")
        return data

    def _touch(self, digest: str) -> None:
        if digest in self._sizes:
            self._sizes.move_to_end(digest)

    def _use(self, digest: str) -> _Use:
        if digest not in self._sizes:
            raise NotFound(f"artifact {digest[:12]} is not here")
        return _Use(self, digest)

    def used(self, digest: str, change: int) -> None:
        """Count who uses an artifact."""
        self._using[digest] += change
        if not self._using[digest]:
            del self._using[digest]

    def lost(self, digest: str, error: MsrtError) -> None:
        """A blob turned out to be damaged or missing."""
        if isinstance(error, Corrupt):
            self.corrupt += 1
            log.error("artifact.corrupt", digest=digest, error=error.text)
        self._sizes.pop(digest, None)
        self._lendable.discard(digest)

    # --- fetching ----------------------------------------------------------------------------------------------

    async def ensure(self, digest: str, fetch: Fetch, size: int = -1) -> None:
        """Have it on disk: callers for one digest share one fetch, which resumes where an earlier one broke off.

        Damage found on arrival is reported, and fetched again once. Raises Corrupt, DiskFull, and what `fetch` raises.
        """
        if not self.has(digest):
            await self._flights.fly(digest, lambda: self._fetch(digest, size, fetch))

    async def _fetch(self, digest: str, size: int, fetch: Fetch) -> None:
        async with self.lock(digest):
            if self.has(digest):
                return
            await self._make_room(max(size, 0))
            self._reserved += max(size, 0)
            try:
                if not await self._try(digest, size, fetch, suspect=False):
                    await self._try(digest, size, fetch, suspect=True)
            finally:
                self._reserved -= max(size, 0)
            await self.keep_bound(digest)

    async def _try(self, digest: str, size: int, fetch: Fetch, *, suspect: bool) -> bool:
        """One fetch; False if the bytes that came are not the artifact and another try may help."""
        have = await self.offload(self.blobs.partial, digest)
        if 0 <= size < have:
            await self.offload(self.blobs.delete, digest)
            have = 0
        sink = BlobSink(self, digest, have, size if size >= 0 else self.bound_bytes or -1, suspect=suspect)
        try:
            await fetch(digest, have, sink)
        except MsrtError:
            if sink.corrupt and not suspect:
                return False
            raise
        finally:
            await sink.close()
        if not self.has(digest):
            if sink.corrupt and not suspect:
                return False
            raise Unavailable(f"artifact {digest[:12]} did not come")
        return True

    # --- room --------------------------------------------------------------------------------------------------

    async def _retrying(self, write: Callable[[], None]) -> None:
        """Write; when the disk is full, let an unused artifact go for it once."""
        try:
            await self.offload(write)
        except DiskFull:
            if not await self.evict(1):
                raise
            await self.offload(write)

    async def _make_room(self, size: int) -> None:
        if not self.bound_bytes:
            return
        excess = self.bytes + self._reserved + size - self.bound_bytes
        if excess > 0 and await self.evict(excess) < excess:
            raise DiskFull(
                f"an artifact of {size} bytes does not fit beside those in use (bound {self.bound_bytes})",
                hint="raise the bound of the cache in the config",
            )

    async def keep_bound(self, digest: str) -> None:
        """An artifact of unknown size came: make room after the fact, or let it go again."""
        self.used(digest, 1)
        try:
            await self._make_room(0)
        except DiskFull:
            self._sizes.pop(digest, None)
            await self.offload(self.blobs.delete, digest)
            raise
        finally:
            self.used(digest, -1)

    async def evict(self, excess: int) -> int:
        """Let the least recently used go until so many bytes are free; how many are."""
        pinned = frozenset().union(*self._pins.values())
        freed = 0
        for digest, size in list(self._sizes.items()):
            if freed >= excess:
                break
            if digest in pinned or digest in self._using or digest not in self._sizes:
                continue
            del self._sizes[digest]
            self._lendable.discard(digest)
            await self.offload(self.blobs.delete, digest)
            log.info("artifact.evicted", digest=digest, bytes=size)
            self.evicted += 1
            freed += size
        return freed


class _Use:
    """An artifact in use; damage that shows meanwhile is written down."""

    def __init__(self, store: ArtifactStore, digest: str) -> None:
        self._store, self._digest = store, digest

    def __enter__(self) -> None:
        self._store.used(self._digest, 1)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._store.used(self._digest, -1)
        if isinstance(error, Corrupt | NotFound):
            self._store.lost(self._digest, error)


def _slices(view: memoryview) -> Iterable[memoryview]:
    return (view[start : start + SLICE] for start in range(0, len(view), SLICE))


def _pieces(file: BinaryIO) -> Iterable[Bytes]:
    return iter(lambda: file.read(SLICE), b"")


def _hash_file(path: Path) -> tuple[str, int]:
    running, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        for piece in _pieces(file):
            running.update(piece)
            size += len(piece)
    return running.hexdigest(), size
