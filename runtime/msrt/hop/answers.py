"""An answer that fits no packet comes as a stream: lists grow with the tree, and who asks need not know by how much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from msrt.buffers import Buffer
from msrt.errors import FrameTooLarge
from msrt.hop.gather import Gather
from msrt.protocol import wire
from msrt.world.world import by_size

__all__ = ["LONG", "LONGEST", "LongAnswer"]

LONG: Final = "answer"
"""Kind of its stream."""
LONGEST: Final = 64 << 20
"""Bytes of one, as msgpack: a row for each of 100,000 nodes is about half of it."""


class LongAnswer(Gather):
    """Settles the call's future with what the stream brought, or with why it brought nothing."""

    def __init__(self, future: asyncio.Future[object], size: int, offload: Callable[..., Awaitable[Any]]) -> None:
        """Raises FrameTooLarge."""
        if not 0 <= size <= LONGEST:
            raise FrameTooLarge(size, LONGEST, "answer")
        super().__init__("an answer", offload, self._came, size)
        self._answer = future

    async def _came(self, payload: Buffer) -> None:
        read = partial(wire.unpack, limit=LONGEST)
        result = await by_size(self._offload, len(payload), read, payload, object)
        if not self._answer.done():
            self._answer.set_result(result)

    def abort(self, error: Exception) -> None:
        super().abort(error)
        if not self._answer.done():
            self._answer.set_exception(error)
