"""Updates of one round that wait for its end, or for the cloud: on the disk, however many they are."""

from __future__ import annotations

import hashlib

from msrt.buffers import Buffer
from msrt.protocol.checksum import quick
from msrt.world.world import UNCOUNTED, Scratch, World, by_size

__all__ = ["Spool"]


class Spool:
    """`each`: bytes of one. The disk is not touched before the first one waits."""

    def __init__(self, world: World, each: int) -> None:
        self._world, self._each = world, each
        self._scratch: Scratch | None = None
        self._closed = False

    @property
    def used(self) -> bool:
        """Did anything ever wait here?"""
        return self._scratch is not None

    async def keep(self, key: str, payload: Buffer) -> Buffer:
        """The same bytes as they lie on the disk. Raises DiskFull: its sender still has it, and may send it again."""
        if self._closed:
            return payload
        if self._scratch is None:
            scratch: Scratch = await self._world.offload(self._world.disk.scratch, self._each)
            if self._closed or self._scratch is not None:  # meanwhile
                scratch.close()
            else:
                self._scratch = scratch
        if self._scratch is None:
            return payload
        kept: memoryview = await self._world.offload(self._scratch.put, key, payload)
        return kept

    async def digest(self, payload: Buffer, *, quickly: bool = False) -> str:
        """SHA-256 hex of one that is here, or of anything; its checksum where that will do."""

        def work() -> str:
            found = quick(payload) if quickly else hashlib.sha256(payload).hexdigest()
            self.release()
            return found

        size = UNCOUNTED if self.used else len(payload)
        found: str = await by_size(self._world.offload, size, work)
        return found

    def drop(self, key: str) -> None:
        """It waits no longer."""
        if self._scratch is not None:
            self._scratch.free(key)

    def release(self) -> None:
        """What was read of them may leave memory."""
        scratch = self._scratch  # the loop may close it meanwhile: this is called by threads
        if scratch is not None:
            scratch.release()

    def close(self) -> None:
        """The round is over; what is still looked at stays until nobody does."""
        self._closed = True
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None
