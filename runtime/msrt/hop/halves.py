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

    def __init__(self, peer: Peer) -> None:
        self._peer, self._world = peer, peer.world
        self._timer: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda future: future.cancelled() or future.exception())

    def arm(self, deadline: float, tick: Callable[[], None]) -> None:
        """Have `tick` called at the deadline, and no more at an earlier one."""
        self.disarm()
        if deadline != NEVER:
            wait = max(0.0, deadline - self._world.now())
            self._timer = asyncio.get_running_loop().call_later(wait, tick)

    def disarm(self) -> None:
        """The stream is over, or its session is void."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Outgoing(_Half):
    """A stream on its way out."""

    def __init__(self, peer: Peer, sender: s.StreamSender, reader: Reader) -> None:
        super().__init__(peer)
        self.sender, self._reader = sender, reader
        self._wanted: s.Read | None = None

    def perform(self, actions: list[s.Action]) -> None:
        """Do what the sender decided. Raises FrameTooLarge, CallerError for a meta that cannot travel."""
        for action in actions:
            match action:
                case s.Send(message, frames):
                    say(self._peer, message, frames)
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
        if wanted is not None and not self._peer.congested:
            self._wanted = None
            self._peer.spawn(self._read(wanted))

    async def _read(self, wanted: s.Read) -> None:
        try:
            data = await self._reader(wanted.offset, wanted.size)
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
        super().__init__(peer)
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
