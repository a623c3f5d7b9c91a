"""Events of several edges as one stream: each once, over the death of any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

import structlog

from msrt import errors
from msrt.protocol.messages import Event

__all__ = ["watch_events"]

log = structlog.get_logger()
QUEUE: Final = 1000
"""Events that wait for a slow reader; then the edges wait."""
SEEN: Final = 10_000
PAUSE_S: Final = 0.5


class _Source(Protocol):
    url: str

    def events(self, model: str, device: str) -> AsyncGenerator[Event, None]: ...


async def watch_events(sources: Sequence[_Source], model: str, device: str) -> AsyncGenerator[Event, None]:
    """Raises Forbidden, when a source does."""
    queue: asyncio.Queue[Event | errors.MsrtError] = asyncio.Queue(QUEUE)
    seen: OrderedDict[tuple[str, int], None] = OrderedDict()
    tasks = [asyncio.get_running_loop().create_task(_follow(s, model, device, queue)) for s in sources]
    try:
        while True:
            event = await queue.get()
            if isinstance(event, errors.MsrtError):
                raise event
            key = (event.node, event.seq)
            if key in seen:
                continue
            seen[key] = None
            if len(seen) > SEEN:
                seen.popitem(last=False)
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _follow(source: _Source, model: str, device: str, queue: asyncio.Queue[Event | errors.MsrtError]) -> None:
    while True:
        try:
            async with contextlib.aclosing(source.events(model, device)) as events:
                async for event in events:
                    await queue.put(event)
        except errors.Forbidden as error:
            await queue.put(error)
            return
        except errors.MsrtError as error:
            log.info("client.events_away", edge=source.url, error=errors.words_of(error))
        await asyncio.sleep(PAUSE_S)
