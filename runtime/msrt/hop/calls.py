"""Questions with one answer over a session: ids, futures, deadlines, errors that cross the wire."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import structlog

from msrt import errors
from msrt.hop.answers import LONG, LONGEST, LongAnswer
from msrt.protocol import wire
from msrt.protocol.messages import Call, Failed, Return, StreamOpen

if TYPE_CHECKING:
    from msrt.hop.handler import StreamSink
    from msrt.hop.peer import Peer

__all__ = ["Calls"]

log = structlog.get_logger()


class Calls:
    """Both directions of the calls of one peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._next = 1
        self._open: dict[int, asyncio.Future[object]] = {}
        self._begun: dict[int, float] = {}

    def begin(self, method: str, params: dict[str, object], timeout_s: float) -> tuple[int, asyncio.Future[object]]:
        """Send a call; its id and the future of its answer."""
        ident = self._next
        self._next += 1
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._peer.send(Call(ident, method, params, int(timeout_s * 1000)))
        self._open[ident] = future
        self._begun[ident] = self._peer.world.now()
        future.add_done_callback(lambda _done: (self._open.pop(ident, None), self._begun.pop(ident, None)))
        return ident, future

    def begun(self, ident: int) -> float:
        """When an open call was sent."""
        return self._begun.get(ident, self._peer.world.now())

    async def call(self, method: str, params: dict[str, object], timeout_s: float) -> object:
        """Call and wait. Raises DeadlineExceeded, Disconnected, or what the peer answered with."""
        _, future = self.begin(method, params, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{self._peer.name} did not answer {method} within {timeout_s:g} s") from None

    def answered(self, message: Return | Failed) -> None:
        """The peer's answer came; one that nobody waits for any more is dropped."""
        future = self._open.get(message.id)
        if future is None or future.done():
            return
        if isinstance(message, Return):
            future.set_result(message.result)
        else:
            future.set_exception(errors.from_wire(message.code, message.text, message.hint))

    async def answer(self, call: Call) -> None:
        """Answer the peer's call through the handler."""
        peer = self._peer
        reply: Return | Failed
        try:
            params = {**call.params, "_call": call.id}
            async with asyncio.timeout(call.timeout_ms / 1000):
                result = await peer.handler.called(peer, call.method, params)
            reply = Return(call.id, result)
        except errors.MsrtError as error:
            reply = Failed(call.id, error.code, error.text, error.hint)
        except TimeoutError:
            reply = Failed(call.id, errors.DeadlineExceeded.code, f"{call.method} took over {call.timeout_ms} ms")
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OSError) as error:
            log.exception("hop.call_failed", method=call.method, peer=peer.node)
            reply = Failed(call.id, errors.MsrtError.code, f"{call.method} failed: {type(error).__name__}: {error}")
        try:
            await self._reply(call, reply)
        except (errors.Disconnected, errors.Overloaded, errors.StreamCancelled, errors.DeadlineExceeded):
            log.info("hop.answer_undeliverable", method=call.method, peer=peer.node)

    async def _reply(self, call: Call, reply: Return | Failed) -> None:
        try:
            try:
                self._peer.send(reply)
            except errors.FrameTooLarge:
                if isinstance(reply, Failed):
                    raise
                await self._reply_long(call, reply)
        except (errors.FrameTooLarge, errors.CallerError) as error:
            text = f"the answer to {call.method} cannot be sent: {error.text}"
            self._peer.send(Failed(call.id, errors.MsrtError.code, text))

    async def _reply_long(self, call: Call, reply: Return) -> None:
        data = wire.pack(reply.result)
        if len(data) > LONGEST:
            raise errors.FrameTooLarge(len(data), LONGEST, "answer")
        digest = await self._peer.world.offload(lambda: hashlib.sha256(data).hexdigest())
        await self._peer.push(LONG, {}, data, size=len(data), digest=digest, answers=call.id)

    def long(self, opened: StreamOpen) -> StreamSink:
        """Where the stream of an open call's answer goes. Raises StreamCancelled, FrameTooLarge."""
        future = self._open.get(opened.answers)
        if future is None or future.done():
            raise errors.StreamCancelled("nobody waits for that answer any more")
        return LongAnswer(future, opened.size, self._peer.world.offload)

    def fail(self, error: Exception) -> None:
        """The session is void: nobody will answer."""
        for future in list(self._open.values()):
            if not future.done():
                future.set_exception(error)
