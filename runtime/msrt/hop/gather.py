"""A stream collected in memory: for what is summed or applied at once and never lies on disk, such as an update."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from msrt.buffers import Buffer, joined
from msrt.errors import Corrupt

__all__ = ["Gather"]

log = structlog.get_logger()


class Gather:
    """A `StreamSink` that hands the whole, verified payload to `use`. The pieces stay the link's own buffers until
    then; joining and hashing (tens of milliseconds for 10 M parameters) happen off the loop.
    """

    have = 0

    def __init__(
        self, what: str, offload: Callable[..., Awaitable[Any]], use: Callable[[Buffer], Awaitable[None]]
    ) -> None:
        """`what` names it in errors and logs."""
        self._what, self._offload, self._use = what, offload, use
        self._pieces: list[Buffer] = []

    async def write(self, _offset: int, data: Buffer) -> None:
        self._pieces.append(data)

    async def complete(self, _size: int, digest: str) -> None:
        """Raises Corrupt, and what `use` raises to refuse it."""
        payload: Buffer = await self._offload(_whole, self._pieces, digest, self._what)
        await self._use(payload)

    def abort(self, error: Exception) -> None:
        self._pieces.clear()
        log.info("stream.aborted", what=self._what, error=str(error))


def _whole(pieces: list[Buffer], digest: str, what: str) -> memoryview:
    payload = joined(pieces)
    pieces.clear()
    if hashlib.sha256(payload).hexdigest() != digest:
        raise Corrupt(f"{what}: its bytes do not match its digest")
    return payload
