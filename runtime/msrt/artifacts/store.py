"""A node's artifacts: put, verified read, resumable fetch, eviction to a bound.

Everything that blocks goes through `World.offload`, hashing included. Bytes are only ever handed out verified: a whole
read is hashed each time, a lent artifact (served by offset) once per process and again whenever a child doubts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import structlog

from msrt.artifacts.flights import Flights
from msrt.artifacts.lent import Lent, mapped
from msrt.artifacts.pieces import hash_file, pieces_of
from msrt.artifacts.room import Room
from msrt.artifacts.sink import BlobSink
from msrt.artifacts.spares import LARGE, Spares
from msrt.buffers import SLICE, Buffer, room_for
from msrt.errors import Corrupt, DiskFull, LocalError, MsrtError, NoRoom, NotFound, Unavailable
from msrt.world.world import Blobs, Check, Spans, World, by_size

__all__ = ["ArtifactStore", "BlobSink", "Fetch", "Lent"]

log = structlog.get_logger()
LEFT: Final = 16 << 20
"""Bytes that stay free beside it: for events, records and logs."""

Fetch = Callable[[str, int, BlobSink], Awaitable[object]]
"""fetch(digest, offset, sink): bring the bytes from `offset` on into the sink, and return once it is complete."""


class ArtifactStore:
    """The artifacts on this node's disk: the pinned ones, those in use, and at most `bound_bytes` of others (None: no
    bound, and no cache either: nothing is ever evicted).

    Beyond the bound the least recently used of the others go. Pin what must stay before the first `put` or `ensure`
    after a start.
    """

    def __init__(self, world: World, *, bound_bytes: int | None = None) -> None:
        self.blobs: Final[Blobs] = world.disk.blobs()
        self._disk = world.disk
        self.offload: Final = world.offload
        self.room: Final = Room(world.disk.digests(), bound_bytes, self._delete)
        self.corrupt = 0
        """Damaged artifacts found, on disk or on the way."""
        self.sent_bytes = 0
        """Of artifacts and parts of them that children were sent whole."""
        self._lendable: set[str] = set()
        self._expected: Mapping[str, int] = {}
        self._flights, self._spares = Flights(), Spares()
        self._maps: WeakValueDictionary[str, mmap.mmap] = WeakValueDictionary()
        """Those that somebody still reads, a slice of one on its way to a child among them."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def held_bytes(self) -> int:
        """On disk, whole artifacts only."""
        return self.room.used

    def has(self, digest: str) -> bool:
        return digest in self.room.sizes

    def size(self, digest: str) -> int | None:
        """Bytes of an artifact that is here."""
        return self.room.sizes.get(digest)

    def digests(self) -> list[str]:
        """All that is here, least recently used first."""
        return list(self.room.sizes)

    def pin(self, digests: Iterable[str], owner: str = "") -> None:
        """What must not be evicted for the sake of `owner`; replaces what that owner pinned before."""
        self.room.pin(digests, owner)

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Sizes of artifacts that may be asked for by who does not know them; replaces what was said before."""
        self._expected = sizes

    # --- in ----------------------------------------------------------------------------------------------------

    async def put_bytes(self, data: Buffer, *, sync: bool = True) -> str:
        """Store; the digest. Without `sync` a power failure may undo it. Raises DiskFull."""
        view = memoryview(data).cast("B")
        digest: str = await by_size(self.offload, len(view), lambda: hashlib.sha256(view).hexdigest())
        return await self._put(digest, len(view), lambda over: self._place(digest, over, view, sync=sync))

    async def put_file(self, path: Path) -> str:
        """Store a file's bytes; the digest. Raises NotFound, DiskFull, Corrupt (it changed meanwhile)."""
        try:
            digest, size = await self.offload(hash_file, path)
            return await self._put(digest, size, lambda over: self._write_file(digest, over, path))
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {path}") from error
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror or error}") from error

    async def adopt(self, path: Path, *, sync: bool = True) -> tuple[str, int]:
        """Take over a file of this node's own, which is moved; its digest and size. Raises LocalError, DiskFull."""
        try:
            digest, size = await self.offload(hash_file, path)
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror or error}") from error
        async with self.lock(digest):
            await self.room.make(digest, size)
            await self.retrying(lambda: self._disk.adopt(path, digest, sync=sync))
            self.came(digest, size)
        return digest, size

    def came(self, digest: str, size: int) -> None:
        """It is whole and was verified just now."""
        self.room.add(digest, size)
        self._lendable.add(digest)

    async def file(self, digest: str) -> Path | None:
        """Where a sound artifact that is here lies in the file system; None in simulation. Raises NotFound, Corrupt."""
        self._check_here(digest)
        if digest not in self._lendable:
            await self.verify(digest)
        return self._disk.file(digest)

    async def evolve(self, base: str, digest: str, start: int, span: int, work: Callable[[Spans], None]) -> bool:
        """Make an artifact of another that nobody needs any more, where it lies (see `Disk.evolve`); False where
        somebody does. What `work` raises leaves neither.
        """
        async with self.lock(base), self.lock(digest):
            if self.has(digest) or not self.room.free(base):
                return False
            size = self.room.sizes.pop(base)
            self._forget(base)
            await self.offload(self._disk.evolve, base, digest, start, span, work)
            self.came(digest, size)
        return True

    async def _put(self, digest: str, size: int, write: Callable[[str], None]) -> str:
        """`write` is told the artifact over which it may write, if there is one."""
        async with self.lock(digest):
            if self.has(digest):
                try:
                    await self.verify(digest)
                except Corrupt:
                    log.info("artifact.replaced", digest=digest)
                else:
                    return digest
            await self.room.make(digest, size)
            await self.retrying(partial(write, self._spares.take(size)))
            self.came(digest, size)
        return digest

    def _write(self, digest: str, over: str, pieces: Iterable[bytes]) -> None:
        self._anew(digest, over)
        offset = 0
        for piece in pieces:
            self.blobs.write(digest, offset, piece)
            offset += len(piece)
        if not offset:
            self.blobs.write(digest, 0, b"")
        self.blobs.finish(digest)

    def _place(self, digest: str, over: str, view: memoryview, *, sync: bool) -> None:
        """What was hashed in memory just now."""
        self._anew(digest, over)
        for start in range(0, max(len(view), 1), SLICE):
            self.blobs.write(digest, start, view[start : start + SLICE], vouched=True)
        self.blobs.finish(digest, sync=sync, vouched=True)

    def _write_file(self, digest: str, over: str, path: Path) -> None:
        with path.open("rb") as file:
            self._write(digest, over, pieces_of(file))

    def _anew(self, digest: str, over: str) -> None:
        self.blobs.delete(digest)
        if over:
            self._disk.displace(over, digest)

    async def retrying(self, write: Callable[[], None]) -> None:
        """Write; when the disk is full, let an unused artifact go for it, once."""
        try:
            await self.offload(write)
        except DiskFull:
            if not (await self.release() or await self.room.evict(1)):
                raise
            await self.offload(write)

    async def _delete(self, digest: str) -> None:
        self._forget(digest)
        async with self.lock(digest):
            if not self.has(digest):  # else somebody put it there again while we waited
                await self.offload(self.blobs.delete, digest)

    async def drop(self, *digests: str, reuse: bool = False) -> None:
        """They are no longer needed: off the disk, unless they are pinned or in use. `reuse`: others of their size come
        soon, and are written over them; until `release` they may stay.
        """
        for digest in digests:
            if reuse and self.room.free(digest) and digest not in self._maps:
                self._forget(digest)
                if gone := self._spares.add(digest, self.room.sizes.pop(digest)):
                    await self._delete(gone)
            else:
                await self.room.drop(digest)

    async def release(self) -> bool:
        """Nothing of the size of what was dropped is expected. Was there any?"""
        gone = self._spares.clear()
        for digest in gone:
            await self._delete(digest)
        return bool(gone)

    def lock(self, digest: str) -> asyncio.Lock:
        """Held by whoever writes that blob."""
        self._spares.forget(digest)
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        return lock

    # --- out ---------------------------------------------------------------------------------------------------

    async def read(self, digest: str) -> Buffer:
        """All bytes, verified. Raises NotFound, Corrupt (then it is gone from the disk: fetch it again)."""
        self._check_here(digest)
        try:
            with self.room.using(digest):
                data: Buffer = await self.offload(self._read_verified, digest)
        except (Corrupt, NotFound) as error:
            self.lost(digest, error)
            raise
        self.room.touch(digest)
        return data

    async def get(self, digest: str, fetch: Fetch, size: int = -1) -> Buffer:
        """All bytes, from this disk if they are here and sound, else through `fetch`."""
        async with self.keeping(digest):
            if self.has(digest):
                try:
                    return await self.read(digest)
                except (Corrupt, NotFound) as error:
                    log.warning("artifact.refetched", digest=digest, code=error.code)
            await self.ensure(digest, fetch, size)
            return await self.read(digest)

    async def verify(self, digest: str) -> None:
        """Read it all and compare. Raises NotFound, Corrupt (then it is gone)."""
        await self.read(digest)
        self._lendable.add(digest)

    @asynccontextmanager
    async def lend(self, digest: str, *, suspect: bool = False) -> AsyncIterator[Lent]:
        """Use an artifact by offset; `suspect`: someone got bad bytes, look at the disk again.

        Raises NotFound, Corrupt (then it is gone).
        """
        self._check_here(digest)
        async with self.keeping(digest):
            if suspect or digest not in self._lendable:
                await self.verify(digest)
            self.room.touch(digest)
            size = self.room.sizes[digest]
            yield Lent(self, digest, size, await self._shared(digest) if size > SLICE else None)

    @asynccontextmanager
    async def keeping(self, digest: str) -> AsyncIterator[None]:
        """It is in use meanwhile, whether it is here or on its way; afterwards it goes if it is beyond the bound."""
        try:
            with self.room.using(digest):
                yield
        finally:
            await self.room.trim()

    def _read_verified(self, digest: str) -> Buffer:
        running = hashlib.sha256()
        size = self.blobs.size(digest) or 0
        data: Buffer
        if size <= SLICE:
            data = self.blobs.read(digest)
            running.update(data)
        else:  # piece by piece: the kernel lets nobody else on this core while it copies 40 MB in one go
            whole = room_for(size)
            for start in range(0, size, SLICE):
                piece = self.blobs.read(digest, start, min(SLICE, size - start))
                whole[start : start + len(piece)] = piece
                running.update(piece)
            data = whole.toreadonly()
        if running.hexdigest() != digest:
            self.blobs.delete(digest)
            raise Corrupt(f"artifact {digest[:12]} is damaged on disk", hint="it is fetched again")
        return data

    def _check_here(self, digest: str) -> None:
        if not self.has(digest):
            raise NotFound(f"artifact {digest[:12]} is not here")

    async def _shared(self, digest: str) -> memoryview | None:
        """As it lies in the page cache, where it was just read or written: no copy, no thread. It outlives the file."""
        path = self._disk.file(digest)
        if path is None:
            return None
        held = self._maps.get(digest)  # one who reads on another thread may let go of it at any time
        if held is None:
            held = self._maps.setdefault(digest, await self.offload(mapped, path))
        return memoryview(held)

    def lost(self, digest: str, error: MsrtError) -> None:
        """A blob turned out to be damaged or missing."""
        if isinstance(error, Corrupt):
            self.corrupt += 1
            log.error("artifact.corrupt", digest=digest, error=error.text)
        self.room.sizes.pop(digest, None)
        self._forget(digest)

    def _forget(self, digest: str) -> None:
        """What was read of its file: another one may have its name soon."""
        self._lendable.discard(digest)
        self._maps.pop(digest, None)

    # --- fetching ----------------------------------------------------------------------------------------------

    async def ensure(
        self, digest: str, fetch: Fetch, size: int = -1, *, sync: bool = True, reuse: bool = False,
        check: Check | None = None,
    ) -> None:  # fmt: skip
        """Have it on disk: callers for one digest share one fetch, which resumes where an earlier one broke off.

        Damage found on arrival is reported, and fetched again once. Without `sync` a power failure may undo it, and
        what an earlier process left is looked at first. `reuse`: it may be written over one that was dropped for that.
        `check` judges what comes first in place of its digest, where this node passes it on to nobody. Raises Corrupt,
        NoRoom (before anything is written), DiskFull, and what `fetch` raises.
        """
        if not sync and self.has(digest) and digest not in self._lendable:
            with contextlib.suppress(Corrupt, NotFound):  # then it is here no more, and fetched
                await self.verify(digest)
        if not self.has(digest):
            await self._flights.fly(digest, lambda: self._fetch(digest, size, fetch, sync, reuse, check))

    async def _fetch(self, digest: str, size: int, fetch: Fetch, sync: bool, reuse: bool, check: Check | None) -> None:  # noqa: FBT001
        async with self.lock(digest):
            if self.has(digest):
                return
            size = size if size >= 0 else self._expected.get(digest, -1)
            await self.room.make(digest, max(size, 0))
            if not (reuse and await self._begin_over(digest, size)) and size >= LARGE:
                await self._look_for_room(digest, size)
            if not await self._try(digest, size, fetch, suspect=False, sync=sync, check=check):
                await self._try(digest, size, fetch, suspect=True, sync=sync)
        await self.room.trim(digest)

    async def _look_for_room(self, digest: str, size: int) -> None:
        """Before the disk is full: whoever shares it (events, records) would find no room either. Raises NoRoom."""
        free, have = await self.offload(lambda: (self._disk.free_bytes(), self.blobs.partial(digest)))
        if free is None:
            return
        lack = size - have + LEFT - free
        if lack > 0 and await self.release():
            free = await self.offload(self._disk.free_bytes) or free
            lack = size - have + LEFT - free
        if lack > 0 and (self.room.spare < lack or await self.room.evict(lack) < lack):
            raise NoRoom(f"artifact {digest[:12]}", size, free, str(self._disk.path or "memory"))

    async def _begin_over(self, digest: str, size: int) -> bool:
        """Begin it in a file that is to be reused, unless a part of it is here already. Did it?"""
        if await self.offload(self.blobs.partial, digest):
            return False
        over = self._spares.take(size)
        if over:
            await self.offload(self._disk.displace, over, digest)
        return bool(over)

    async def _try(
        self, digest: str, size: int, fetch: Fetch, *, suspect: bool, sync: bool, check: Check | None = None
    ) -> bool:
        """One fetch; False if the bytes that came are not the artifact and another try may help."""
        have = await self.offload(self.blobs.partial, digest)
        if 0 <= size < have:
            await self.offload(self.blobs.delete, digest)
            have = 0
        sink = BlobSink(self, digest, have, size, suspect=suspect, sync=sync, check=check)
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
