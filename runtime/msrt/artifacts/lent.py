"""An artifact that is read by offset."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from msrt.buffers import Buffer
from msrt.hop.halves import Reader
from msrt.protocol.stream import INLINE

if TYPE_CHECKING:
    from msrt.artifacts.store import ArtifactStore

__all__ = ["Lent", "mapped"]


class Lent:
    """An artifact in use: not evicted while it is lent."""

    def __init__(self, store: ArtifactStore, digest: str, size: int, mapped: memoryview | None) -> None:
        self._store, self.digest, self.size, self._mapped = store, digest, size, mapped

    async def read(self, offset: int, size: int) -> Buffer:
        """Bytes from an offset, shorter only at the end (a `msrt.hop` Reader)."""
        if self._mapped is not None:
            return self._mapped[offset : offset + size]
        data: bytes = await self._store.offload(self._store.blobs.read, self.digest, offset, size)
        return data

    async def whole(self) -> Buffer:
        """All of it, without a copy where it is mapped."""
        return await self.read(0, self.size)

    async def source(self) -> Reader | Buffer:
        """For `Peer.push`: bytes where they are at hand or few, which then ride with the opening of their stream."""
        return await self.whole() if self._mapped is not None or self.size <= INLINE else self.read


def mapped(path: Path) -> mmap.mmap:
    """A file as it lies in the page cache, read only. It outlives the file's name. Blocking. Raises OSError."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
