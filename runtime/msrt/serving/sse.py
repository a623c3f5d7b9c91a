"""Events as a stream that browsers and curl understand (text/event-stream)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from msrt.protocol.messages import Event

__all__ = ["encode_event", "stream_events"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ALIVE = b": alive\n\n"
"""A comment now and then finds out who went away without a word."""


def encode_event(event: Event) -> bytes:
    """One event; its id is `node/seq`."""
    return b"id: %s/%d\nevent: event\ndata: %s\n\n" % (event.node.encode(), event.seq, msgspec.json.encode(event))


async def stream_events(
    events: AsyncIterator[Event], receive: Receive, send: Send, stop: asyncio.Event, alive_s: float,
    may: Callable[[], bool] = lambda: True,
) -> None:  # fmt: skip
    """Send events until the caller leaves, `may` not go on, the source ends, or `stop` is set. Nothing is kept for a
    slow reader here: `send` waits, and the source's own bound decides."""
    await send({"type": "http.response.body", "body": ALIVE, "more_body": True})
    left = asyncio.ensure_future(_gone(receive))
    stopped = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[Event | None] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait(
                (left, stopped, following), timeout=alive_s, return_when=asyncio.FIRST_COMPLETED
            )
            if left in done or stopped in done or not may():
                break
            piece = ALIVE
            if following in done:
                event = following.result()
                following = None
                if event is None:
                    break
                piece = encode_event(event)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        waiting = [task for task in (left, stopped, following) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
