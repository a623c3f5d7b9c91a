"""What a node holds: verified on the first read, brought once however many ask, evicted by least recent use."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from msrt import errors
from msrt.links.link import Buffer
from msrt.world.world import World

__all__ = ["ArtifactStore", "BlobSink", "Fetch"]

log = structlog.get_logger()
SLICE: Final = 1 << 20
"""Bytes hashed or written in one offloaded piece: none holds the GIL for long."""
ATTEMPTS: Final = 5
PAUSE_S: Final = 0.5

Fetch = Callable[[str, "BlobSink"], Awaitable[None]]
"""Brings a blob from somewhere else into the sink, from `sink.have` on."""


class BlobSink:
    """Where the bytes of one artifact go; resumes at what an earlier try left on disk. A hop's StreamSink."""

    def __init__(self, store: ArtifactStore, digest: str, have: int) -> None:
        self._store, self.digest, self.have = store, digest, have

    async def write(self, offset: int, data: Buffer) -> None:
        """The next piece. Raises DiskFull."""
        world = self._store.world
        await world.offload(self._store.blobs.write, self.digest, offset, memoryview(data))

    async def complete(self, _size: int, digest: str) -> None:
        """Verify and publish. Raises Corrupt: then nothing of it is kept."""
        if digest and digest != self.digest:
            raise errors.Corrupt(f"artifact {digest[:12]} came where {self.digest[:12]} was asked for")
        await self._store.world.offload(self._store.blobs.finish, self.digest)
        self._store.noted(self.digest)

    def abort(self, error: Exception) -> None:
        """The pieces stay for the next try."""
        log.info("artifact.transfer_broken", digest=self.digest[:12], error=str(error))


class ArtifactStore:
    """The artifacts of one node. `bound_bytes`: kept beyond those pinned, the least recently used go first."""

    def __init__(self, world: World, *, bound_bytes: int = 0) -> None:
        self.world = world
        self.blobs = world.disk.blobs()
        self._bound = bound_bytes
        self._used: OrderedDict[str, int] = OrderedDict(world.disk.digests())
        self._verified: set[str] = set()
        self._pinned: set[str] = set()
        self._coming: dict[str, asyncio.Task[None]] = {}
        self.corrupt = 0
        """Artifacts found damaged on disk, ever."""
        self.fetched_bytes = 0

    @property
    def bytes(self) -> int:
        """All that is held."""
        return sum(self._used.values())

    def has(self, digest: str) -> bool:
        """Is it here, whole?"""
        return digest in self._used

    def noted(self, digest: str) -> None:
        """A blob was verified and published."""
        self._verified.add(digest)
        self._used[digest] = self.blobs.size(digest) or 0
        self._used.move_to_end(digest)

    async def put_bytes(self, data: bytes) -> str:
        """Keep bytes; their digest. Raises DiskFull."""
        digest: str = await self.world.offload(_digest, data)
        if not self.has(digest):
            await self.world.offload(self._write, digest, data)
            self.noted(digest)
        return digest

    async def put_file(self, path: Path) -> str:
        """Keep a file's bytes; their digest. Raises DiskFull."""
        data: bytes = await self.world.offload(path.read_bytes)
        return await self.put_bytes(data)

    def _write(self, digest: str, data: bytes) -> None:
        for offset in range(0, max(1, len(data)), SLICE):
            self.blobs.write(digest, offset, data[offset : offset + SLICE])
        self.blobs.finish(digest)

    async def read(self, digest: str) -> bytes:
        """The whole, verified against its digest when read for the first time in this process.

        Raises NotFound, Corrupt (the damaged copy is deleted: bring it again).
        """
        if not self.has(digest):
            raise errors.NotFound(f"no artifact {digest[:12]} is here")
        data: bytes = await self.world.offload(self.blobs.read, digest)
        if digest not in self._verified:
            if await self.world.offload(_digest, data) != digest:
                await self._damaged(digest)
            self._verified.add(digest)
        self._used.move_to_end(digest)
        return data

    async def verify(self, digest: str) -> None:
        """Read it anew and hold it against its digest. Raises Corrupt, NotFound."""
        self._verified.discard(digest)
        await self.read(digest)

    async def _damaged(self, digest: str) -> None:
        self.corrupt += 1
        self._used.pop(digest, None)
        await self.world.offload(self.blobs.delete, digest)
        log.error("artifact.corrupt", digest=digest)
        raise errors.Corrupt(f"artifact {digest[:12]} was damaged on disk", hint="it is fetched again")

    async def ensure(self, digest: str, fetch: Fetch) -> None:
        """Have it here: bring it if need be, once for all who ask. Raises what `fetch` raises, DiskFull, Corrupt."""
        while not self.has(digest):
            task = self._coming.get(digest)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._bring(digest, fetch))
                self._coming[digest] = task
                task.add_done_callback(lambda _done: self._coming.pop(digest, None))
            await asyncio.shield(task)

    async def get(self, digest: str, fetch: Fetch) -> bytes:
        """Its bytes, brought or brought again where the copy here is damaged."""
        for _ in range(ATTEMPTS):
            await self.ensure(digest, fetch)
            try:
                return await self.read(digest)
            except errors.Corrupt:
                continue
        raise errors.Corrupt(f"artifact {digest[:12]} was damaged {ATTEMPTS} times", hint="check this machine's disk")

    async def _bring(self, digest: str, fetch: Fetch) -> None:
        for attempt in range(ATTEMPTS):
            have = await self.world.offload(self.blobs.partial, digest)
            sink = BlobSink(self, digest, have)
            try:
                await fetch(digest, sink)
            except (errors.Corrupt, errors.Disconnected, errors.DeadlineExceeded, errors.StreamCancelled) as error:
                if attempt == ATTEMPTS - 1:
                    raise
                log.info("artifact.again", digest=digest[:12], error=str(error))
                await asyncio.sleep(PAUSE_S * 2**attempt)
                continue
            self.fetched_bytes += self._used.get(digest, 0) - have
            await self._evict()
            return

    def pin(self, digests: Iterable[str]) -> None:
        """These are in use: they are never evicted. Replaces what was pinned before."""
        self._pinned = set(digests)

    async def _evict(self) -> None:
        if not self._bound:
            return
        for digest in list(self._used):
            if self.bytes <= self._bound:
                return
            if digest in self._pinned or digest == next(reversed(self._used)):
                continue
            del self._used[digest]
            self._verified.discard(digest)
            await self.world.offload(self.blobs.delete, digest)
            log.info("artifact.evicted", digest=digest[:12])


def _digest(data: bytes) -> str:
    whole = hashlib.sha256()
    view = memoryview(data)
    for offset in range(0, len(view), SLICE):
        whole.update(view[offset : offset + SLICE])
    return whole.hexdigest()
