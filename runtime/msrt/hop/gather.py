"""A stream collected in memory: for what is summed or applied at once and never lies on disk, such as an update."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from msrt.buffers import SLICE, Buffer, Rooms, joined, room_for
from msrt.errors import Corrupt, words_of
from msrt.protocol.checksum import quick
from msrt.world.world import by_size

__all__ = ["Gather"]

log = structlog.get_logger()
CHECKSUM: Final = 16
"""Digits of a checksum; a digest has 64."""


class Gather:
    """A `StreamSink` that hands the whole, verified payload to `use`.

    A large one of known size is copied into its room piece by piece as it comes, so that the link has its own buffers
    back at once; hashing (tens of milliseconds for 10 M parameters) happens off the loop.
    """

    have = 0

    def __init__(
        self,
        what: str,
        offload: Callable[..., Awaitable[Any]],
        use: Callable[[Buffer], Awaitable[None]],
        size: int = -1,
        rooms: Rooms | None = None,
    ) -> None:
        """`what` names it in errors and logs; `size` in bytes, -1 where it grows. From `rooms` it takes its room, which
        `use` may give back.
        """
        self._what, self._offload, self._use = what, offload, use
        self._pieces: list[Buffer] = []
        self._size, self._rooms = size, rooms
        self._room: memoryview | None = None

    async def write(self, offset: int, data: Buffer) -> None:
        if self._size <= SLICE:
            self._pieces.append(data)
            return
        if self._room is None:
            self._room = self._rooms.take(self._size) if self._rooms else room_for(self._size)
        self._room[offset : offset + len(data)] = data

    async def complete(self, size: int, digest: str) -> None:
        """Raises Corrupt, and what `use` raises to refuse it."""
        payload: Buffer = await by_size(self._offload, size, _verified, self._room, self._pieces, digest, self._what)
        self._pieces, self._room = [], None
        await self._use(payload)

    def abort(self, error: Exception) -> None:
        self._pieces, self._room = [], None
        log.info("stream.aborted", what=self._what, error=words_of(error))


def _verified(room: memoryview | None, pieces: list[Buffer], digest: str, what: str) -> memoryview:
    payload = room if room is not None else joined(pieces)
    found = quick(payload) if len(digest) == CHECKSUM else hashlib.sha256(payload).hexdigest()
    if found != digest:
        raise Corrupt(f"{what}: its bytes do not match its digest")
    return payload
