"""The client without an event loop of the caller's: one daemon thread runs an AsyncClient.

Threads are World.offload's elsewhere; this one belongs to the caller's process, which is no node.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msrt import errors
from msrt.client.aio import AsyncClient, Inputs
from msrt.client.fitting import Label
from msrt.client.request import Answer, tensors_of
from msrt.client.streaming import WINDOW
from msrt.client.threads import Flow, SyncSequence, stream_in_thread
from msrt.client.waiters import Blocked
from msrt.protocol.messages import Event, Parent
from msrt.serving.backend import ModelInfo

__all__ = ["Client"]

T = TypeVar("T")
LOST_S: Final = 5.0
"""After its deadline a request that the loop never settled, because it was closed just then, is given up."""


class Client:
    """Ask models for answers, from any thread. Use it in a `with`, or `close` it. The parameters are AsyncClient's."""

    def __init__(  # noqa: PLR0913 - see AsyncClient
        self, urls: Sequence[str] | str = (), *, state: Path | str | None = None, key: str | None = None,
        fingerprint: str | Sequence[str] = (), ca: Path | str | None = None, deadline_s: float = 10.0,
        trace: str = "", trace_share: float = 0.01, spin_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._client = AsyncClient(
            urls, state=state, key=key, fingerprint=fingerprint, ca=ca, deadline_s=deadline_s, trace=trace,
            trace_share=trace_share, spin_s=spin_s,
        )  # fmt: skip
        self._loop = _loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="msrt-client", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._run(self._client.open())
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye. Requests without an answer fail as Disconnected."""
        if not self._closed:
            self._run(self._client.close())
            self._end()

    def _end(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        try:
            self._check_open()
        except errors.Disconnected:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _check_open(self) -> None:
        """Raises Disconnected."""
        if self._closed:
            raise errors.Disconnected("the client was closed")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    # --- asking

    def infer(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, outputs: Sequence[str] = (),
        version: int = 0, priority: int = 0, request_id: int = 0, trace: str = "",
    ) -> Answer:  # fmt: skip
        """See AsyncClient.infer."""
        if not self._client.plain(inputs, trace):
            return self._run(
                self._client.infer(
                    model, inputs, deadline=deadline, outputs=outputs, version=version, priority=priority,
                    request_id=request_id, trace=trace,
                )
            )  # fmt: skip
        # Without a task and two futures: each of them is another turn of the loop before the caller is woken.
        ask = self._client.asks(model, outputs, version, priority, trace)
        seconds, waiter = self._client.seconds(deadline), Blocked()
        self._check_open()
        self._loop.call_soon_threadsafe(self._client.ask, ask, tensors_of(inputs), seconds, request_id, waiter)
        try:
            return waiter.wait(max(seconds, 0.0) + LOST_S)
        except (KeyboardInterrupt, errors.DeadlineExceeded):
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._client.abandon, waiter)
            raise

    def submit(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, outputs: Sequence[str] = (),
        version: int = 0, priority: int = 0, request_id: int = 0, trace: str = "",
    ) -> concurrent.futures.Future[Answer]:  # fmt: skip
        """The same without waiting; cancelling the future tells the edge."""
        return self._start(
            self._client.infer(
                model, inputs, deadline=deadline, outputs=outputs, version=version, priority=priority,
                request_id=request_id, trace=trace,
            )
        )  # fmt: skip

    def infer_many(
        self, model: str, many: Sequence[Inputs], *, deadline: float | None = None, outputs: Sequence[str] = (),
        version: int = 0, priority: int = 0, trace: str = "",
    ) -> list[Answer]:  # fmt: skip
        """See AsyncClient.infer_many: thousands of requests a second, for they travel together."""
        return self._run(
            self._client.infer_many(
                model, many, deadline=deadline, outputs=outputs, version=version, priority=priority, trace=trace
            )
        )

    def stream(
        self, model: str, many: Iterable[Inputs], *, ordered: bool = True, window: int = WINDOW,
        deadline: float | None = None, outputs: Sequence[str] = (), version: int = 0, priority: int = 0,
    ) -> Generator[Answer, None, None]:  # fmt: skip
        """See AsyncClient.stream. The inputs are read in a thread of their own, so they may wait for a sensor."""
        ask = self._client.asks(model, outputs, version, priority)
        self._check_open()
        return stream_in_thread(
            self._client, self._loop, ask, many, Flow(window, ordered=ordered), deadline
        )  # fmt: skip

    def sequence(
        self, model: str, *, deadline: float | None = None, outputs: Sequence[str] = (), version: int = 0,
        priority: int = 0, trace: str = "",
    ) -> SyncSequence:  # fmt: skip
        """See AsyncClient.sequence; use it in a `with`."""
        made = self._client.sequence(
            model, deadline=deadline, outputs=outputs, version=version, priority=priority, trace=trace
        )
        return SyncSequence(made, self._run)

    def classify(
        self, model: str, inputs: Inputs, *, top: int = 5, output: str = "", deadline: float | None = None,
        version: int = 0, priority: int = 0,
    ) -> list[list[Label]]:  # fmt: skip
        """See AsyncClient.classify."""
        return self._run(
            self._client.classify(
                model, inputs, top=top, output=output, deadline=deadline, version=version, priority=priority
            )
        )

    def metadata(self, model: str, *, version: int = 0, deadline: float | None = None) -> ModelInfo:
        """See AsyncClient.metadata."""
        return self._run(self._client.metadata(model, version=version, deadline=deadline))

    @property
    def edges(self) -> list[Parent]:
        """All edges known, as of the last refresh."""
        return self._client.edges

    def events(self, *, model: str = "", device: str = "") -> Iterator[Event]:
        """See AsyncClient.events."""
        events = self._client.events(model=model, device=device)

        async def take() -> Event:
            return await anext(events)

        async def end() -> None:
            with contextlib.suppress(RuntimeError):  # it is waited for right now
                await events.aclose()

        try:
            while True:
                yield self._run(take())
        finally:
            if not self._closed:
                self._run(end())


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
