"""Streams and sequences for callers without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from collections.abc import Sequence as Many
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msrt import errors
from msrt.client.request import Answer, Ask
from msrt.client.sequence import Sequence
from msrt.client.waiters import Window

if TYPE_CHECKING:
    from msrt.client.aio import AsyncClient

__all__ = ["Flow", "SyncSequence", "stream_in_thread"]


class SyncSequence:
    """See Sequence; use it in a `with`."""

    def __init__(self, sequence: Sequence, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._sequence, self._run = sequence, run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.end()

    @property
    def id(self) -> str:
        return self._sequence.id

    @property
    def model(self) -> str:
        return self._sequence.model

    @property
    def lost(self) -> errors.SequenceLost | None:
        """Why it cannot go on, None while it can."""
        return self._sequence.lost

    def infer(
        self, inputs: Any, *, end: bool = False, deadline: float | None = None, outputs: Many[str] | None = None
    ) -> Answer:
        """The next step. See Sequence.infer."""
        answer: Answer = self._run(self._sequence.infer(inputs, end=end, deadline=deadline, outputs=outputs))
        return answer

    def end(self) -> None:
        """Let the device forget it."""
        self._run(self._sequence.end())


class Flow:
    """A window that three threads share: who reads inputs, the client's loop, who takes answers."""

    def __init__(self, window: int, *, ordered: bool) -> None:
        if window < 1:
            raise errors.CallerError(f"a window of {window} lets nothing through")
        self._window = Window(window, ordered=ordered)
        self._changed = threading.Condition()
        self.inputs: deque[tuple[int, Any]] = deque()
        """Read, and not asked yet."""
        self.closed = False
        self._over = False
        self._broken: BaseException | None = None

    def settled(self, index: int, result: Answer | errors.MsrtError) -> None:
        with self._changed:
            self._window.put(index, result)
            self._changed.notify_all()

    def read(self, inputs: Any) -> bool:
        """Take one more when there is room. False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._window.room > 0)
            if not self.closed:
                self.inputs.append((self._window.ask(), inputs))
            return not self.closed

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._over, self._broken = True, error
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def take(self) -> Answer | None:
        """The next answer, None at the end. Raises what its place holds instead, or what reading the inputs raised."""
        with self._changed:
            while (result := self._window.take()) is None:
                if self._over and not self._window.open:
                    if self._broken is not None:
                        raise self._broken
                    return None
                self._changed.wait()
            self._changed.notify_all()
        if isinstance(result, Answer):
            return result
        raise result


def stream_in_thread(
    client: AsyncClient, loop: asyncio.AbstractEventLoop, ask: Ask, many: Iterable[Any], flow: Flow,
    deadline: float | None,
) -> Generator[Answer, None, None]:  # fmt: skip
    """See Client.stream."""

    async def submit() -> None:
        while flow.inputs:
            some = [flow.inputs.popleft() for _ in range(len(flow.inputs))]
            if await _ask(client, ask, some, flow, deadline) or len(some) == 1:
                continue
            for one in some:  # one of them is wrong: the others are not
                await _ask(client, ask, [one], flow, deadline)

    def feed() -> None:
        error: BaseException | None = None
        try:
            for inputs in many:
                if not flow.read(inputs):
                    return
                if len(flow.inputs) == 1:  # else they are on their way to those who are already
                    asyncio.run_coroutine_threadsafe(submit(), loop)
        except BaseException as failed:  # noqa: BLE001 - the caller's own: it is raised where answers are taken
            error = failed
        finally:
            flow.end(error)

    feeder = threading.Thread(target=feed, name="msrt-stream", daemon=True)
    feeder.start()
    try:
        while (answer := flow.take()) is not None:
            yield answer
    finally:
        flow.close()
        if not loop.is_closed():
            loop.call_soon_threadsafe(client.abandon, flow)


async def _ask(client: AsyncClient, ask: Ask, some: list[tuple[int, Any]], flow: Flow, deadline: float | None) -> bool:
    """Ask all of these. False when one of them cannot be asked; alone, it is told why."""
    try:
        requests = await client.requests(ask, [inputs for _, inputs in some], client.ends(deadline), flow)
    except errors.MsrtError as error:
        if len(some) == 1:
            flow.settled(some[0][0], error)
        return False
    for request, (index, _) in zip(requests, some, strict=True):
        request.index = index
    if flow.closed:
        return True
    client.submit(requests)
    return True
