"""The two ends of one stream, performed: a pure half of `msrt.protocol.stream`, its timer, and its data's home."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop.handler import StreamSink
from msrt.protocol import stream as s
from msrt.protocol.messages import Message

if TYPE_CHECKING:
    from msrt.hop.peer import Peer

__all__ = ["Incoming", "Outgoing", "Reader", "say"]

Reader = Callable[[int, int], Awaitable[Buffer]]
"""(offset, size) -> bytes of the source, shorter only at its end."""
INBOX: Final = 1024
"""Messages that wait for a slow sink, beside the bound in bytes; more are dropped and come again."""
NEVER: Final = float("inf")


def say(peer: Peer, message: Message, frames: tuple[Buffer, ...] = ()) -> None:
    """Losing it is allowed: the halves repeat themselves."""
    try:
        peer.send(message, frames)
    except (errors.Disconnected, errors.Overloaded):
        return


class _Half:
    """One stream's timer."""

    def __init__(self, peer: Peer, tick: Callable[[], None]) -> None:
        self._peer, self._world, self._due = peer, peer.world, tick
        self._timer: asyncio.TimerHandle | None = None
        self._at = self._rings_at = NEVER
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda future: future.cancelled() or future.exception())

    def arm(self, deadline: float) -> None:
        """Have `tick` called at the deadline, and no more at an earlier one. A timer that rings too soon is set again
        then: every message moves the deadline, nearly always to a later time.
        """
        if deadline == NEVER:  # it is over: a timer that still rings would keep all of it until then
            self.disarm()
            return
        self._at = deadline
        if deadline < self._rings_at:
            self._ring_at(deadline)

    def _ring_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._world.now()), self._rang)

    def _rang(self) -> None:
        self._timer, self._rings_at = None, NEVER
        if self._at == NEVER:
            return
        if self._world.now() < self._at:
            self._ring_at(self._at)
        else:
            self._at = NEVER
            self._due()

    def disarm(self) -> None:
        """The stream is over, or its session is void."""
        self._at = self._rings_at = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Outgoing(_Half):
    """A stream on its way out. `source`: all its bytes, or how to read them."""

    def __init__(self, peer: Peer, sender: s.StreamSender, source: Reader | Buffer) -> None:
        super().__init__(peer, self._tick)
        self.sender = sender
        self._source: Reader | memoryview = source if callable(source) else memoryview(source)
        self._wanted: s.Read | None = None

    def perform(self, actions: list[s.Action]) -> None:
        """Do what the sender decided. Raises FrameTooLarge, CallerError for a meta that cannot travel."""
        for action in actions:  # it grows by what follows from bytes that are at hand
            match action:
                case s.Send(message, frames):
                    say(self._peer, message, frames)
                case s.Read():
                    self._wanted = action
                    actions += self._read()
                case s.Finished():
                    if not self.done.done():
                        self.done.set_result(None)
                case s.FailedStream(error):
                    if not self.done.done():
                        self.done.set_exception(error)
        self.arm(self.sender.deadline)

    def pump(self) -> None:
        """Read the next piece once the link has room."""
        if self._wanted is not None:
            self.perform(self._read())

    def _read(self) -> list[s.Action]:
        """What the sender says to the bytes that it wanted, where they are at hand and the link has room."""
        wanted, source = self._wanted, self._source
        if wanted is None or self._peer.congested:
            return []
        self._wanted = None
        if isinstance(source, memoryview):
            return self.sender.data(
                wanted.offset, source[wanted.offset : wanted.offset + wanted.size], self._world.now()
            )
        self._peer.spawn(self._bring(wanted, source))
        return []

    async def _bring(self, wanted: s.Read, source: Reader) -> None:
        try:
            data = await source(wanted.offset, wanted.size)
        except errors.MsrtError as error:
            self.perform(self.sender.cancel(error))
        except OSError as error:
            self.perform(self.sender.cancel(errors.LocalError(f"the stream's source cannot be read: {error}")))
        else:
            self.perform(self.sender.data(wanted.offset, data, self._world.now()))

    def _tick(self) -> None:
        self.perform(self.sender.tick(self._world.now()))

    def give_up(self, error: errors.MsrtError) -> None:
        """Nobody waits for it any more."""
        self.perform(self.sender.cancel(error))

    def fail(self, error: Exception) -> None:
        """The session is void."""
        self.disarm()
        if not self.done.done():
            self.done.set_exception(error)


class Incoming(_Half):
    """A stream on its way in."""

    def __init__(self, peer: Peer, receiver: s.StreamReceiver, sink: StreamSink) -> None:
        super().__init__(peer, self._tick)
        self.receiver, self.sink = receiver, sink
        self.touched = self._world.now()
        """When something of it last came."""
        self._inbox: deque[tuple[Message, Buffer]] = deque()
        self._inbox_bytes = 0
        self._busy = False

    def received(self, message: Message, frame: Buffer) -> None:
        """A message of this stream; what does not fit is dropped and comes again."""
        self.touched = self._world.now()
        if len(self._inbox) >= INBOX or (len(frame) and self._inbox_bytes + len(frame) > s.DEFAULT_WINDOW):
            return
        self._inbox.append((message, frame))
        self._inbox_bytes += len(frame)
        if not self._busy:
            self._busy = True
            self._peer.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._inbox:
                message, frame = self._inbox.popleft()
                self._inbox_bytes -= len(frame)
                await self._perform(self.receiver.handle(message, frame, self._world.now()))
        finally:
            self._busy = False

    async def _perform(self, actions: list[s.Action]) -> None:
        try:
            for action in actions:
                match action:
                    case s.Send(message, frames):
                        say(self._peer, message, frames)
                    case s.Write(offset, data):
                        await self.sink.write(offset, data)
                    case s.Complete(size, digest):
                        await self.sink.complete(size, digest)
                        self._settle(None)
                        await self._perform(self.receiver.verified(self._world.now()))
                    case s.FailedStream(error):
                        self._settle(error)
        except errors.MsrtError as error:
            self._settle(error)
            await self._perform(self.receiver.cancel(error))
        self.arm(self.receiver.deadline)

    def _settle(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.sink.abort(error)
            self.done.set_exception(error)

    def _tick(self) -> None:
        self._peer.spawn(self._perform(self.receiver.tick(self._world.now())))

    def give_up(self, error: errors.MsrtError) -> None:
        """Nobody wants it any more: tell the sender."""
        for action in self.receiver.cancel(error):
            if isinstance(action, s.Send):
                say(self._peer, action.message, action.frames)
        self.fail(error)

    def fail(self, error: Exception) -> None:
        """The session is void."""
        self.disarm()
        self._settle(error)
