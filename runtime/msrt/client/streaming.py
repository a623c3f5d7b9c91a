"""Answers to a stream of inputs: a bounded number on their way, given out in order or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msrt import errors
from msrt.client.request import Answer, Ask
from msrt.client.waiters import Window

if TYPE_CHECKING:
    from msrt.client.aio import AsyncClient

__all__ = ["TOGETHER", "WINDOW", "Flow", "stream_answers"]

WINDOW: Final = 256
TOGETHER: Final = 64
"""Inputs that are read before others get their turn of the event loop."""


class Flow:
    """What was asked and not taken yet; wakes whoever waits for answers, or for room. A client's waiter."""

    def __init__(self, window: int, *, ordered: bool) -> None:
        if window < 1:
            raise errors.CallerError(f"a window of {window} lets nothing through")
        self.window = Window(window, ordered=ordered)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.over = False
        """No more will be asked."""

    def settled(self, index: int, result: Answer | errors.MsrtError) -> None:
        self.window.put(index, result)
        self._news.set()

    def end(self) -> None:
        self.over = True
        self._news.set()

    async def room(self) -> int:
        """How many may be asked, at least one."""
        while self.window.room < 1:
            self._room.clear()
            await self._room.wait()
        return self.window.room

    async def take(self) -> Answer | None:
        """The next answer, None at the end. Raises what an answer's place holds instead."""
        while True:
            result = self.window.take()
            if isinstance(result, Answer):
                self._room.set()
                return result
            if result is not None:
                raise result
            if self.over and not self.window.open:
                return None
            self._news.clear()
            await self._news.wait()


async def stream_answers(
    client: AsyncClient, ask: Ask, many: Iterable[Any] | AsyncIterable[Any], *, ordered: bool, window: int,
    deadline: float | None,
) -> AsyncGenerator[Answer, None]:  # fmt: skip
    """See AsyncClient.stream."""
    flow = Flow(window, ordered=ordered)
    feeder = asyncio.get_running_loop().create_task(_feed(client, ask, many, flow, deadline))
    try:
        while True:
            answer = await flow.take()
            if answer is None:
                break
            yield answer
        await feeder  # raises what reading the inputs raised
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])
        if not feeder.cancelled():
            feeder.exception()  # the first error was raised already
        client.abandon(flow)


async def _feed(
    client: AsyncClient, ask: Ask, many: Iterable[Any] | AsyncIterable[Any], flow: Flow, deadline: float | None
) -> None:
    try:
        if isinstance(many, AsyncIterable):
            async for inputs in many:
                await flow.room()
                await _ask(client, ask, [inputs], flow, deadline)
            return
        iterator = iter(many)
        while True:
            some = list(islice(iterator, min(await flow.room(), TOGETHER)))
            if not some:
                return
            await _ask(client, ask, some, flow, deadline)
            await asyncio.sleep(0)
    finally:
        flow.end()


async def _ask(client: AsyncClient, ask: Ask, some: list[Any], flow: Flow, deadline: float | None) -> None:
    first = flow.window.asked
    requests = await client.requests(ask, some, client.ends(deadline), flow, first)
    for _ in some:
        flow.window.ask()
    client.submit(requests)
