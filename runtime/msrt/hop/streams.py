"""All streams of one peer: which there are, who asked for them, how long an ended one is remembered.

A sender's data comes from a `Reader`, a receiver's goes to a `StreamSink`. Each half has a deadline of its own, and a
chunk goes out only when no message waits for the link.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop.answers import LONG
from msrt.hop.ended import Ended
from msrt.hop.halves import Incoming, Outgoing, Reader, say
from msrt.hop.handler import StreamSink
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

MAX_INCOMING: Final = 64
"""Streams received at once from one peer; more are refused."""
FETCH_S: Final = 3600.0
"""A fetch may take so long while its stream goes on; what bounds it is silence."""


class Streams:
    """Both directions of the streams of one peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._next = 1
        self._slow = 0.0
        """Seconds that an opening lately waited for its answer: the next is not repeated sooner."""
        self._usual = s.CHUNK_FIRST
        """Bytes of a chunk that the link took quickly."""
        self._out: dict[int, Outgoing] = {}
        self._in: dict[int, Incoming] = {}
        self._sent, self._came = Ended(peer.world), Ended(peer.world)
        self._fetches: dict[int, tuple[StreamSink, asyncio.Future[Incoming]]] = {}

    async def push(
        self, kind: str, meta: dict[str, object], data: Reader | Buffer, *, size: int, digest: str, answers: int
    ) -> None:
        """Send one stream and wait until the peer has verified it."""
        ident = self._next
        self._next += 1
        sender = s.StreamSender(
            ident, kind, meta, size, digest, self._chunk, self.peer.world.now(), answers=answers,
            chunk=self._usual, whole=None if callable(data) or size > s.INLINE else data,
            first=min(max(s.RTO_FIRST_S, 2 * self._slow), s.RTO_MAX_S),
        )  # fmt: skip
        out = self._out[ident] = Outgoing(self.peer, sender, data)
        try:
            out.perform(sender.tick(self.peer.world.now()))
            await out.done
            self._usual = sender.chunk
        finally:
            self._slow = max(sender.answered_s, self._slow / 2)
            out.give_up(errors.StreamCancelled("the sender gave up"))
            if self._out.get(ident) is out:  # a later session numbers its streams anew
                del self._out[ident]
                self._sent.add(ident, sender.last_word)

    async def fetch(self, method: str, params: dict[str, object], sink: StreamSink, timeout_s: float) -> object:
        """Call, take the stream that answers it into `sink`, and return the call's result."""
        calls = self.peer.calls
        ident, answer = calls.begin(method, params, max(FETCH_S, timeout_s))
        opened: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        self._fetches[ident] = (sink, opened)
        try:
            await self._until_answered(method, answer, opened, calls.begun(ident), timeout_s)
            result = answer.result()
            if not opened.done():
                raise errors.MalformedFrame(f"{self.peer.name} answered {method} without a stream")
            await opened.result().done
            return result
        finally:
            answer.cancel()
            del self._fetches[ident]
            if opened.done():
                opened.result().give_up(errors.StreamCancelled("nobody waits for it any more"))

    async def _until_answered(
        self,
        method: str,
        answer: asyncio.Future[object],
        opened: asyncio.Future[Incoming],
        begun: float,
        quiet: float,
    ) -> None:
        """Returns when the call has its answer. Raises DeadlineExceeded after `quiet` seconds without a sign of it."""
        while not answer.done():
            waited: list[asyncio.Future[Any]] = [answer, *([] if opened.done() else [opened])]
            await asyncio.wait(waited, timeout=quiet / 4, return_when=asyncio.FIRST_COMPLETED)
            since = opened.result().touched if opened.done() else begun
            if not answer.done() and self.peer.world.now() - since >= quiet:
                raise errors.DeadlineExceeded(f"{self.peer.name} sent nothing of {method} for {quiet:g} s")

    def received(self, message: Message, frames: list[Buffer]) -> None:
        """A stream message of the peer. What is of no stream here is told so, that its sender does not wait in vain."""
        match message:
            case StreamOpen():
                self._opened(message, frames[0] if frames else b"")
            case StreamCredit() | StreamDone() | StreamCancel(from_sender=False):
                out = self._out.get(message.stream)
                if out is not None:
                    out.perform(out.sender.handle(message, self.peer.world.now()))
                elif isinstance(message, StreamCredit):
                    self._over(self._sent, message.stream, from_sender=True)
            case StreamChunk() | StreamEnd() | StreamCancel():
                incoming = self._in.get(message.stream)
                if incoming is not None:
                    incoming.received(message, frames[0] if frames else b"")
                elif not isinstance(message, StreamCancel):
                    self._over(self._came, message.stream, from_sender=False)

    def _over(self, ended: Ended, stream: int, *, from_sender: bool) -> None:
        """Something came of a stream that is over, or never was."""
        if stream not in ended:
            code = errors.StreamCancelled.code
            say(self.peer, StreamCancel(stream, from_sender=from_sender, code=code, text="there is no such stream"))
        elif (word := ended.word(stream)) is not None:
            say(self.peer, word)

    def _opened(self, message: StreamOpen, frame: Buffer) -> None:
        known = self._in.get(message.stream)
        if known is not None:
            known.received(message, frame)
            return
        if message.stream in self._came:
            self._over(self._came, message.stream, from_sender=False)
            return
        fetch = self._fetches.get(message.answers)
        try:
            if len(self._in) >= MAX_INCOMING:
                raise errors.Overloaded(f"{MAX_INCOMING} streams come in already")
            sink = self._sink(message, fetch)
        except errors.MsrtError as error:
            say(self.peer, StreamCancel(message.stream, from_sender=False, code=error.code, text=error.text))
            return
        receiver = s.StreamReceiver(message, sink.have, s.DEFAULT_WINDOW, self.peer.world.now())
        incoming = self._in[message.stream] = Incoming(self.peer, receiver, sink)
        incoming.done.add_done_callback(lambda _done: self._ended(message.stream, incoming))
        if fetch and sink is fetch[0]:
            fetch[1].set_result(incoming)
        incoming.received(message, frame)

    def _sink(self, message: StreamOpen, fetch: tuple[StreamSink, asyncio.Future[Incoming]] | None) -> StreamSink:
        """Where it goes: to the call that it answers, else to what the tier has for it. Raises why it goes nowhere."""
        if message.kind == LONG:
            return self.peer.calls.long(message)
        if fetch is None:
            if message.answers:
                raise errors.StreamCancelled("nobody waits for that stream any more")
            return self.peer.handler.stream(self.peer, message)
        if fetch[1].done():
            raise errors.OutOfOrder("that call was answered by another stream")
        return fetch[0]

    def _ended(self, stream: int, incoming: Incoming) -> None:
        if self._in.get(stream) is incoming:
            del self._in[stream]
            self._came.add(stream, incoming.receiver.last_word)

    def pump(self) -> None:
        """The link has room."""
        for out in list(self._out.values()):
            out.pump()

    def reconnected(self) -> None:
        """The session is live again, perhaps over another link: every open sender opens again."""
        now, self._usual = self.peer.world.now(), s.CHUNK_FIRST
        for out in list(self._out.values()):
            out.perform(out.sender.reconnected(now, self._chunk))

    @property
    def _chunk(self) -> int:
        """Most bytes of one on the present link."""
        return wire.chunk_limit(self.peer.limit)

    def fail(self, error: Exception) -> None:
        """The session is void: the other end forgot these streams."""
        halves: list[Outgoing | Incoming] = [*self._out.values(), *self._in.values()]
        for table in (self._out, self._in, self._sent, self._came):
            table.clear()
        for half in halves:
            half.fail(error)
