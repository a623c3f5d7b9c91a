"""The shell of streams: drives the pure halves of `msrt.protocol.stream` over one peer's session.

A sender's data comes from a `Reader`, a receiver's goes to a `StreamSink`. Each half has a deadline of its own, and a
chunk goes out only when no message waits for the link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from msrt import errors
from msrt.hop.handler import StreamSink
from msrt.links.link import Buffer
from msrt.protocol import stream as s
from msrt.protocol import wire
from msrt.protocol.messages import (
    Message,
    StreamCancel,
    StreamChunk,
    StreamCredit,
    StreamDone,
    StreamEnd,
    StreamOpen,
)

if TYPE_CHECKING:
    from msrt.hop.peer import Peer

__all__ = ["Reader", "Streams"]

log = structlog.get_logger()
Reader = Callable[[int, int], Awaitable[bytes]]
"""(offset, size) -> bytes of the source, shorter only at its end."""
LINGER_S = 10.0
"""How long an ended half answers a peer that did not hear the end."""
MAX_INCOMING = 64
"""Streams received at once from one peer; more are refused."""


class _Half:
    """One stream's timer and its place in a table."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._timer: asyncio.TimerHandle | None = None
        self._world = streams.peer.world

    def arm(self, deadline: float, tick: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline != float("inf"):
            wait = max(0.0, deadline - self._world.now())
            self._timer = asyncio.get_running_loop().call_later(wait, tick)

    def say(self, message: Message, frames: tuple[Buffer, ...]) -> None:
        """Losing it is allowed: the halves repeat themselves."""
        try:
            self._streams.peer.send(message, frames)
        except (errors.Disconnected, errors.Overloaded):
            return


class _Outgoing(_Half):
    def __init__(self, streams: Streams, sender: s.StreamSender, reader: Reader) -> None:
        super().__init__(streams)
        self.sender, self._reader = sender, reader
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted: s.Read | None = None

    def perform(self, actions: list[s.Action]) -> None:
        for action in actions:
            match action:
                case s.Send(message, frames):
                    self.say(message, frames)
                case s.Read():
                    self._wanted = action
                    self.pump()
                case s.Finished():
                    if not self.done.done():
                        self.done.set_result(None)
                case s.FailedStream(error):
                    if not self.done.done():
                        self.done.set_exception(error)
        self.arm(self.sender.deadline, self._tick)

    def pump(self) -> None:
        """Read the next piece once the link has room."""
        wanted = self._wanted
        if wanted is not None and not self._streams.peer.congested:
            self._wanted = None
            self._streams.peer.spawn(self._read(wanted))

    async def _read(self, wanted: s.Read) -> None:
        try:
            data = await self._reader(wanted.offset, wanted.size)
        except errors.MsrtError as error:
            self.perform(self.sender.cancel(error))
            return
        self.perform(self.sender.data(wanted.offset, data, self._world.now()))

    def _tick(self) -> None:
        self.perform(self.sender.tick(self._world.now()))


class _Incoming(_Half):
    def __init__(self, streams: Streams, receiver: s.StreamReceiver, sink: StreamSink) -> None:
        super().__init__(streams)
        self.receiver, self.sink = receiver, sink
        self.touched = self._world.now()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._inbox: deque[tuple[Message, Buffer]] = deque()
        self._inbox_bytes = 0
        self._busy = False

    def received(self, message: Message, frame: Buffer) -> None:
        self.touched = self._world.now()
        if self._inbox_bytes + len(frame) > s.DEFAULT_WINDOW and len(frame):
            return
        self._inbox.append((message, frame))
        self._inbox_bytes += len(frame)
        if not self._busy:
            self._busy = True
            self._streams.peer.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._inbox:
                message, frame = self._inbox.popleft()
                self._inbox_bytes -= len(frame)
                await self.perform(self.receiver.handle(message, frame, self._world.now()))
        finally:
            self._busy = False

    async def perform(self, actions: list[s.Action]) -> None:
        try:
            for action in actions:
                match action:
                    case s.Send(message, frames):
                        self.say(message, frames)
                    case s.Write(offset, data):
                        await self.sink.write(offset, data)
                    case s.Complete(size, digest):
                        await self.sink.complete(size, digest)
                        self._settle(None)
                        await self.perform(self.receiver.verified(self._world.now()))
                    case s.FailedStream(error):
                        self._settle(error)
        except errors.MsrtError as error:
            self._settle(error)
            await self.perform(self.receiver.cancel(error))
        self.arm(self.receiver.deadline, self._tick)

    def _settle(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.sink.abort(error)
            self.done.set_exception(error)

    def _tick(self) -> None:
        self._streams.peer.spawn(self.perform(self.receiver.tick(self._world.now())))

    def fail(self, error: Exception) -> None:
        """The session is void."""
        self.arm(float("inf"), self._tick)
        self._settle(error)


class Streams:
    """Both directions of the streams of one peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._next = 1
        self._out: dict[int, _Outgoing] = {}
        self._in: dict[int, _Incoming] = {}
        self._fetches: dict[int, tuple[StreamSink, asyncio.Future[_Incoming]]] = {}

    async def push(
        self, kind: str, meta: dict[str, object], data: Reader | bytes, *, size: int, digest: str, answers: int
    ) -> None:
        """Send one stream and wait until the peer has verified it."""
        reader = _slices(data) if isinstance(data, bytes) else data
        ident = self._next
        self._next += 1
        sender = s.StreamSender(
            ident, kind, meta, size, digest, wire.chunk_limit(self.peer.limit), self.peer.world.now(), answers=answers
        )
        out = self._out[ident] = _Outgoing(self, sender, reader)
        try:
            out.perform(sender.tick(self.peer.world.now()))
            await out.done
        finally:
            if not sender.over:
                out.perform(sender.cancel(errors.StreamCancelled("the sender gave up")))
                out.done.exception()
            self._forget_later(self._out, ident)

    async def fetch(self, method: str, params: dict[str, object], sink: StreamSink, timeout_s: float) -> object:
        """Call, take the stream that answers it into `sink`, and return the call's result."""
        calls = self.peer.calls
        ident, answer = calls.begin(method, params, timeout_s)
        opened: asyncio.Future[_Incoming] = asyncio.get_running_loop().create_future()
        self._fetches[ident] = (sink, opened)
        incoming: _Incoming | None = None
        try:
            while not answer.done():
                await asyncio.wait([answer, *([] if opened.done() else [opened])], timeout=timeout_s / 4)
                if opened.done() and not opened.cancelled():
                    incoming = opened.result()
                since = incoming.touched if incoming else calls.begun(ident)
                if not answer.done() and self.peer.world.now() - since > timeout_s:
                    raise errors.DeadlineExceeded(f"{self.peer.name} sent nothing of {method} for {timeout_s:g} s")
            result = answer.result()
            if incoming is None:
                raise errors.MalformedFrame(f"{self.peer.name} answered {method} without a stream")
            await incoming.done
            return result
        finally:
            answer.cancel()
            del self._fetches[ident]

    def received(self, message: Message, frames: object) -> None:
        """A stream message of the peer."""
        now = self.peer.world.now()
        match message:
            case StreamOpen():
                self._opened(message)
            case StreamCredit() | StreamDone():
                if out := self._out.get(message.stream):
                    out.perform(out.sender.handle(message, now))
            case StreamCancel(from_sender=False):
                if out := self._out.get(message.stream):
                    out.perform(out.sender.handle(message, now))
            case StreamChunk() | StreamEnd() | StreamCancel():
                if incoming := self._in.get(message.stream):
                    frame = frames[0] if frames else b""  # type: ignore[index]
                    incoming.received(message, frame)

    def _opened(self, message: StreamOpen) -> None:
        known = self._in.get(message.stream)
        if known is not None:
            known.received(message, b"")
            return
        fetch = self._fetches.get(message.answers)
        try:
            if sum(not i.done.done() for i in self._in.values()) >= MAX_INCOMING:
                raise errors.Overloaded(f"{MAX_INCOMING} streams come in already")
            if message.answers and fetch is None:
                raise errors.StreamCancelled("nobody waits for that stream any more")
            sink = fetch[0] if fetch else self.peer.handler.stream(self.peer, message)
        except errors.MsrtError as error:
            _Half(self).say(StreamCancel(message.stream, from_sender=False, code=error.code, text=error.text), ())
            return
        receiver = s.StreamReceiver(message, sink.have, s.DEFAULT_WINDOW, self.peer.world.now())
        incoming = self._in[message.stream] = _Incoming(self, receiver, sink)
        incoming.done.add_done_callback(lambda _done: self._forget_later(self._in, message.stream))
        if fetch and not fetch[1].done():
            fetch[1].set_result(incoming)
        incoming.received(message, b"")

    def _forget_later(self, table: dict[int, _Outgoing] | dict[int, _Incoming], ident: int) -> None:
        asyncio.get_running_loop().call_later(LINGER_S, table.pop, ident, None)

    def pump(self) -> None:
        """The link has room."""
        for out in list(self._out.values()):
            out.pump()

    def reconnected(self) -> None:
        """The session is live again: every open sender opens again."""
        now, limit = self.peer.world.now(), wire.chunk_limit(self.peer.limit)
        for out in list(self._out.values()):
            out.perform(out.sender.reconnected(now, limit))

    def fail(self, error: Exception) -> None:
        """The session is void: the other end forgot these streams."""
        for out in list(self._out.values()):
            out.arm(float("inf"), lambda: None)
            if not out.done.done():
                out.done.set_exception(error)
        for incoming in list(self._in.values()):
            incoming.fail(error)
        self._out.clear()
        self._in.clear()


def _slices(data: bytes) -> Reader:
    view = memoryview(data)

    async def read(offset: int, size: int) -> bytes:
        return view[offset : offset + size]  # type: ignore[return-value]

    return read
