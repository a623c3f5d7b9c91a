"""Events of all devices: kept once each, bounded, and read from any offset by those who follow."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from msrt.journal.commits import Commits
from msrt.journal.inbox import Inbox
from msrt.journal.outbox import Outbox, Overflow
from msrt.protocol import wire
from msrt.protocol.messages import Event, Message
from msrt.world.world import Store, World
from msrt_cloud.tally import Tally

__all__ = ["Events"]

SCAN = 64
"""Events looked at in one turn of the loop: about a millisecond."""


class Events:
    """`bound_bytes`: the oldest go first beyond it, and are counted in `dropped`."""

    def __init__(self, world: World, store: Store, bound_bytes: int) -> None:
        self._log = Outbox(store, "events", bound_bytes=bound_bytes, overflow=Overflow.DROP_OLDEST)
        self._inbox = Inbox(store)
        self.tally = Tally(store)
        self._commits = Commits(self._log.commit, world.offload)
        self._came = asyncio.Event()

    @property
    def dropped(self) -> int:
        """Events given up by the bound, ever."""
        return self._log.dropped

    @property
    def last(self) -> int:
        """Offset of the newest event."""
        return self._log.next_seq - 1

    async def stored(self, messages: list[Message]) -> None:
        """Keep what is new; on disk on return. An event that came by two ways is kept once. Raises DiskFull."""
        for message in messages:
            if isinstance(message, Event) and self._inbox.mark(message.node, "events", message.seq):
                self._log.put(wire.pack(message))
                self.tally.note(message)
        self.tally.flush()
        await self._commits.commit()
        came, self._came = self._came, asyncio.Event()
        came.set()

    async def after(self, offset: int, model: str, device: str, limit: int, wait_s: float) -> dict[str, Any]:
        """Events with a higher offset; waits up to `wait_s` for the first. -1: only what comes from now on."""
        offset = self.last if offset < 0 else offset
        found: list[dict[str, Any]] = []
        came = self._came
        position = offset
        while len(found) < limit:
            batch = self._log.unacked(position, SCAN)
            for seq, data in batch:
                position = seq
                event = wire.unpack(data, Event)
                if (not model or event.model == model) and (not device or device in (event.name, event.node)):
                    found.append({"offset": seq, **msgspec.to_builtins(event)})
                    if len(found) >= limit:
                        break
            if batch:
                await asyncio.sleep(0)
            elif found:
                break
            else:
                try:
                    async with asyncio.timeout(wait_s):
                        await came.wait()
                except TimeoutError:
                    break
                came = self._came
        return {"events": found, "next": position}
