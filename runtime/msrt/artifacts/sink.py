"""Where the bytes of an incoming artifact go: a `msrt.hop.StreamSink` over the blobs on disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from msrt.buffers import Buffer
from msrt.errors import Corrupt, FrameTooLarge, OutOfOrder, StreamCancelled, words_of

if TYPE_CHECKING:
    from msrt.artifacts.store import ArtifactStore
    from msrt.world.world import Check

__all__ = ["BlobSink"]

log = structlog.get_logger()


class BlobSink:
    """One artifact coming in. What was written stays for the next try, whatever ends this one.

    `limit`: its size, or the most that may come; -1: no limit. `suspect`: a first try brought bad bytes. `sync`: a
    power failure shall not undo it. `check`: judges the whole in place of its digest (see `Blobs.finish`).
    """

    def __init__(
        self, store: ArtifactStore, digest: str, have: int, limit: int, *, suspect: bool = False, sync: bool = True,
        check: Check | None = None,
    ) -> None:  # fmt: skip
        self.have = have
        self.suspect, self._sync, self._check = suspect, sync, check
        self.corrupt = False
        """The bytes that came are not the artifact."""
        self._store, self._digest, self._limit = store, digest, limit
        self._closed = False
        self._writing = asyncio.Lock()

    async def write(self, offset: int, data: Buffer) -> None:
        """The next piece. Raises OutOfOrder, FrameTooLarge, DiskFull, StreamCancelled."""
        async with self._writing:
            self._check_open()
            if offset != self.have:
                raise OutOfOrder(f"artifact {self._digest[:12]}: byte {offset} came, {self.have} is next")
            if 0 <= self._limit < offset + len(data):
                raise FrameTooLarge(offset + len(data), self._limit, f"artifact {self._digest[:12]}")
            piece = data if isinstance(data, bytes | memoryview) else bytes(data)
            store, vouched = self._store, self._check is not None
            await store.retrying(lambda: store.blobs.write(self._digest, offset, piece, vouched=vouched))
            self.have = offset + len(data)

    async def complete(self, _size: int = -1, _digest: str = "") -> None:
        """All came: verify and publish. Raises Corrupt (the bytes are gone: fetch again), DiskFull."""
        async with self._writing:
            self._check_open()
            store = self._store
            if not self.have:
                await store.offload(store.blobs.write, self._digest, 0, b"")
            try:
                await store.offload(lambda: store.blobs.finish(self._digest, sync=self._sync, check=self._check))
            except Corrupt as error:
                self.corrupt = True
                self.have = 0
                store.lost(self._digest, error)
                raise
            store.came(self._digest, self.have)

    def abort(self, error: Exception) -> None:
        """The stream ended early."""
        log.info("artifact.transfer_ended", digest=self._digest, have=self.have, error=words_of(error))
        self._closed = True

    async def close(self) -> None:
        """No more writes; returns when the last one is through."""
        self._closed = True
        async with self._writing:
            return

    def _check_open(self) -> None:
        if self._closed:
            raise StreamCancelled(f"nobody fetches artifact {self._digest[:12]} this way any more")
