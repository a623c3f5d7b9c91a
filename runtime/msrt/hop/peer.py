"""The other end of a hop while a session with it lives: send, call, push; and the performing of session actions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop.calls import Calls
from msrt.hop.handler import Handler, StreamSink
from msrt.hop.streams import Reader, Streams
from msrt.links.link import Link, Route
from msrt.protocol import session as s
from msrt.protocol import wire
from msrt.protocol.messages import (
    Call,
    DeliveryClass,
    Failed,
    Message,
    Parent,
    Refuse,
    Return,
    StreamCancel,
    StreamChunk,
    StreamCredit,
    StreamDone,
    StreamEnd,
    StreamOpen,
)
from msrt.trust.certificate import Certificate
from msrt.world.world import World

__all__ = ["Peer", "refusal"]

log = structlog.get_logger()
BACKLOG_BYTES = 8 << 20
"""Bytes kept for a link that is full; beyond it transient messages are refused, others go with a later resend."""
STORE_AGAIN_S = 1.0
"""Pause before durable messages are offered again to a disk that was full."""

_STREAM = (StreamOpen, StreamCredit, StreamChunk, StreamEnd, StreamDone, StreamCancel)
_OURS = frozenset((*_STREAM, Call, Return, Failed))
"""What is not the handler's."""


class Peer:
    """One end of one hop. `certificate` is None for a parent (its link key proved it)."""

    def __init__(
        self, world: World, session: s.Session, handler: Handler, certificate: Certificate | None, node: str
    ) -> None:
        self.world, self.session, self.handler, self.certificate, self.node = world, session, handler, certificate, node
        self.link: Link | None = None
        self.route: Route = b""
        self.principal = b""
        self.address: Parent | None = None
        self.device_class = ""
        self.agent = ""
        self.serial = ""
        self.previous = ""
        self.joined = False
        self.over = False
        self._closing = ""
        """Why this side ends the session."""
        self._announced = False
        """The handler knows a session of this peer that it was not told the end of."""
        self.sent_bytes = self.received_bytes = 0
        self._backlog: deque[tuple[list[Buffer], int]] = deque()
        self._backlog_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._persisting: deque[tuple[Message, int]] = deque()
        self._storing: asyncio.Task[None] | None = None
        self._voids = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.calls = Calls(self)
        self.streams = Streams(self)
        self.on_acked: Callable[[tuple[Message, ...]], None] = lambda _messages: None
        self.on_over: Callable[[Peer, Exception | None], None] = lambda _peer, _error: None

    @property
    def role(self) -> str:
        """The peer's role by its certificate; a parent has none."""
        return self.certificate.role if self.certificate else ""

    @property
    def name(self) -> str:
        """The peer's name by its certificate, else its node id."""
        return self.certificate.name if self.certificate else self.node

    @property
    def limit(self) -> int:
        """Largest packet its link takes, in bytes."""
        return self.link.limit if self.link else wire.MQTT_LIMIT

    @property
    def live(self) -> bool:
        """Can be sent to now."""
        return self.session.state is s.State.LIVE

    # --- sending ------------------------------------------------------------------------------------------

    def send(self, message: Message, frames: s.Frames = ()) -> None:
        """Send by the message's delivery class. Raises Disconnected, Overloaded, FrameTooLarge, CallerError.

        What a session has once taken must be able to travel: its size is checked before.
        """
        transient = message.delivery is DeliveryClass.TRANSIENT
        if not transient and (size := sum(map(len, wire.encode(message, frames))) + wire.HEADER_ROOM) > self.limit:
            raise errors.FrameTooLarge(size, self.limit)
        for action in self.session.send(message, frames, self.world.now()):
            if isinstance(action, s.Transmit) and not self.transmit(message, frames, action.seq) and transient:
                raise errors.Overloaded(f"{self._backlog_bytes} bytes wait for the link to {self.name}")
        if not transient:  # one of those brings no deadline nearer
            self._schedule()

    async def call(self, method: str, params: dict[str, object] | None = None, timeout: float = 30.0) -> object:  # noqa: ASYNC109
        """Ask the peer. Raises what it answered with, Disconnected, DeadlineExceeded."""
        return await self.calls.call(method, params or {}, timeout)

    async def push(
        self, kind: str, meta: dict[str, object], data: Reader | Buffer, *, size: int, digest: str, answers: int = 0
    ) -> None:
        """Send a stream; returns when the peer has it whole and verified. Raises StreamCancelled, Disconnected."""
        await self.streams.push(kind, meta, data, size=size, digest=digest, answers=answers)

    async def fetch(self, method: str, params: dict[str, object], sink: StreamSink, timeout: float = 60.0) -> object:  # noqa: ASYNC109
        """Call a method whose answer is a stream into `sink`; returns once it is whole. The timeout is of silence."""
        return await self.streams.fetch(method, params, sink, timeout)

    def transmit(self, message: Message, frames: s.Frames, seq: int) -> bool:
        """Encode and hand one packet to the link, or keep it while the link is full. False: too much waits already."""
        link, route, session = self.link, self.route, self.session
        if link is None:
            return True
        packet = wire.encode(
            message, frames, seq=seq, epoch=session.epoch,
            ack_session=session.ack_session, ack_durable=session.ack_durable,
        )  # fmt: skip
        size = sum(map(len, packet))
        if self._backlog:
            return self._keep(packet, size)
        try:
            if not link.send(route, packet):
                return self._keep(packet, size)
        except errors.Disconnected:
            asyncio.get_running_loop().call_soon(self._lost_on, link, route)
            return True
        self.sent_bytes += size
        return True

    def _repeat(self, message: Message, frames: s.Frames, seq: int) -> None:
        """Transmit what the session says by itself."""
        try:
            self.transmit(message, frames, seq)
        except errors.FrameTooLarge as error:  # the peer came back over a link with a smaller limit
            log.warning("hop.cannot_resend", peer=self.node, error=error.text)
            asyncio.get_running_loop().call_soon(self.close, error.text)

    def _keep(self, packet: list[Buffer], size: int) -> bool:
        if self._backlog_bytes + size > BACKLOG_BYTES:
            return False
        self._backlog.append((packet, size))
        self._backlog_bytes += size
        return True

    @property
    def congested(self) -> bool:
        """Packets wait for the link: streams hold back."""
        return bool(self._backlog)

    def writable(self) -> None:
        """The link takes packets again."""
        while self._backlog and self.link is not None:
            packet, size = self._backlog[0]
            try:
                if not self.link.send(self.route, packet):
                    return
            except errors.Disconnected:
                self.lost()
                return
            self._backlog.popleft()
            self._backlog_bytes -= size
            self.sent_bytes += size
        self.streams.pump()

    # --- receiving ----------------------------------------------------------------------------------------

    def received(self, packet: wire.Packet) -> None:
        """One decoded packet of this peer. Raises OutOfOrder."""
        actions = self.session.receive(packet, self.world.now())
        if len(actions) == 1 and packet.delivery is DeliveryClass.TRANSIENT:
            first = actions[0]
            if type(first) is s.Deliver:  # nearly always; nothing is due any sooner
                self._deliver(first.message, first.frames)
                return
        self.perform(actions)

    def _lost_on(self, link: Link, route: Route) -> None:
        if self.link is link and self.route == route:
            self.lost()

    def lost(self) -> None:
        """The link lost the peer."""
        self._backlog.clear()
        self._backlog_bytes = 0
        self.perform(self.session.lost(self.world.now()))

    def perform(self, actions: list[s.Action]) -> None:
        """Do what the session decided."""
        for action in actions:
            match action:
                case s.Transmit(message, frames, seq):
                    self._repeat(message, frames, seq)
                case s.Deliver(message, frames):
                    self._deliver(message, frames)
                case s.Persist(message, _, seq):
                    self._persist(message, seq)
                case s.Acked(messages):
                    self.on_acked(messages)
                case s.Joined(resumed, lost):
                    self._joined(resumed, lost)
                case s.Silent():
                    self._left(errors.Disconnected("its link was lost"), final=False)
                case s.Over(error, lost):
                    self._over(error, lost)
        self._schedule()

    def _deliver(self, message: Message, frames: s.Frames) -> None:
        if type(message) not in _OURS:
            self.handler.message(self, message, list(frames))
        elif isinstance(message, _STREAM):
            self.streams.received(message, list(frames))
        elif isinstance(message, Call):
            self.spawn(self.calls.answer(message))
        elif isinstance(message, Return | Failed):
            self.calls.answered(message)

    def _joined(self, resumed: bool, lost: tuple[Message, ...]) -> None:  # noqa: FBT001
        if not resumed and self._announced:
            error = errors.Disconnected("the peer started a new session")
            self._void(error)
            self._left(error, final=True)
        if lost:
            log.warning("hop.messages_lost", peer=self.node, count=len(lost))
        if not self.joined:
            self.joined = self._announced = True
            self.handler.joined(self)
        self.streams.reconnected()

    def _left(self, error: Exception, *, final: bool) -> None:
        if self.joined or final:
            self.joined = False
            self._announced = not final
            self.handler.left(self, error, final=final)

    def _void(self, error: Exception) -> None:
        """What belonged to the session that is over: its calls, its streams, the work on its behalf."""
        self.calls.fail(error)
        self.streams.fail(error)
        self._persisting.clear()
        self._voids += 1
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _over(self, error: Exception | None, lost: tuple[Message, ...]) -> None:
        self.over = True
        why = error or errors.Disconnected(f"closed here{self._closing and f': {self._closing}'}")
        if lost:
            log.info("hop.messages_lost", peer=self.node, count=len(lost), why=errors.words_of(why))
        self._void(why)
        self._left(why, final=True)
        self.on_over(self, error)

    def _persist(self, message: Message, seq: int) -> None:
        self._persisting.append((message, seq))
        if self._storing is None:
            self._storing = asyncio.get_running_loop().create_task(self._store())

    async def _store(self) -> None:
        """One batch at a time, and never cut short: what the handler began to write, it finishes."""
        try:
            while self._persisting:
                batch, session = list(self._persisting), self._voids
                try:
                    await self.handler.stored(self, [message for message, _ in batch])
                except errors.LocalError as error:
                    log.warning("hop.not_stored", peer=self.node, count=len(batch), error=errors.words_of(error))
                    await asyncio.sleep(STORE_AGAIN_S)
                    continue
                except errors.MsrtError as error:
                    log.warning("hop.refused", peer=self.node, code=error.code, error=error.text)
                    self.refuse(error)
                    return
                if session == self._voids:
                    for _ in batch:
                        self._persisting.popleft()
                    self.session.persisted(batch[-1][1], self.world.now())
                    self._schedule()
        finally:
            self._storing = None

    # --- time ---------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that dies with this peer's session."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _schedule(self) -> None:
        if self.over:
            if self._timer is not None:
                self._timer.cancel()
            return
        due = self.session.deadline()
        if due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self.world.now()), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.perform(self.session.tick(self.world.now()))

    def refuse(self, error: errors.MsrtError) -> None:
        """Send the peer away, with the reason."""
        if not self.over:
            self.transmit(refusal(error), (), 0)
            self.close(error.text)

    def close(self, reason: str = "") -> None:
        """Say goodbye and end the session."""
        if not self.over:
            self._closing = reason
            self.perform(self.session.close(self.world.now(), reason))


def refusal(error: errors.MsrtError) -> Refuse:
    """An error as the word that ends a session, or lets none begin."""
    return Refuse(error.code, error.text, error.hint, error.order if isinstance(error, errors.Revoked) else b"")
