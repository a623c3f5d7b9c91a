"""A child's way up: a list of parents, one session at a time, the next parent when one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop.handler import Handler, StreamSink
from msrt.hop.homing import Endpoint, Home, Homing
from msrt.hop.peer import Peer
from msrt.links.link import PARENT, Credentials, Link, Route
from msrt.protocol import wire
from msrt.protocol.messages import Enrol, Enrolled, Hello, Message, Parent, Parents, Refuse, StreamOpen
from msrt.protocol.session import Session, Side
from msrt.world.world import World

__all__ = ["Uplink", "enrol"]

log = structlog.get_logger()
GREET_S = 2.0
"""How long a parent may take to welcome us before the next one is tried."""
RESUME_S = 0.7
"""How long a lost parent may take to take us back when there is another one."""
PAUSE_S = 0.3
PAUSE_MAX_S = 5.0
BRIEF_S = 1.0
"""A session shorter than this did not help: before the next one comes a pause."""
ENROL_AGAIN_S = 0.25
UNREACHABLE_S = 3.0
"""A parent to which there is no connection for so long is not there."""
FATAL = (errors.Revoked, errors.NotEnrolled, errors.BadSignature, errors.Forbidden, errors.WrongServerKey)
"""Trying again alone will not help."""


class Uplink:
    """Keeps a session with one of several parents.

    `hello` is said to each (the machine fills in attempt and resume fields). `peer` is the parent while a session
    is live, else None. `roams`: whether it goes to the parents that a parent offers; else it stays with its own.
    `home`: where it goes back to when it had to flee to another region.
    """

    def __init__(
        self,
        world: World,
        hello: Hello,
        parents: Sequence[Parent],
        endpoint: Endpoint,
        handler: Handler,
        *,
        pause_max_s: float = PAUSE_MAX_S,
        roams: bool = True,
        home: Home | None = None,
    ) -> None:
        self._roams = roams
        self._homing = Homing(world, endpoint, home or Home())
        self._homewards: Parent | None = None
        """Where to go next, for which the last parent was left."""
        self._world, self._hello, self._endpoint, self._handler = world, hello, endpoint, handler
        self.parents, self._pause_max_s = list(parents), pause_max_s
        self.peer: Peer | None = None
        self.refused: errors.MsrtError | None = None
        """Why the last parent sent us away, while no other has taken us."""
        self.on_parents: Callable[[list[Parent]], None] = lambda _parents: None
        self.on_sent_away: Callable[[errors.MsrtError], None] = lambda _error: None
        self._attempt = 0
        self._previous = ""
        self._changed = asyncio.Event()
        self._hopeless = False
        """Every parent has sent us away since one last took us."""
        self._closing = False

    async def run(self) -> None:
        """Stay connected until `close`."""
        pause, turn = PAUSE_S, 0
        while not self._closing:
            parents = [p for p in self.parents if self._endpoint(p) is not None]
            if not parents:
                raise errors.CallerError("no parent can be reached over this link", hint="join with a new invite")
            home, self._homewards = self._homewards, None
            parent, began = home or parents[turn % len(parents)], self._world.now()
            joined = await self._with(parent)
            if self._closing:
                return
            if home is not None and not joined:
                turn = 0  # back to who had us: the first of the list
                continue
            brief = self._world.now() - began < BRIEF_S
            turn = 0 if joined and self.parents[0].node != parent.node else turn + 1
            if joined and not brief:
                pause = PAUSE_S
            elif turn % len(parents) == 0:
                self._hopeless = not joined and isinstance(self.refused, FATAL)
                self._changed.set()
                await self._sleep(pause * (1 + self._world.random.random()))
                pause = min(pause * 2, self._pause_max_s)

    async def _sleep(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _with(self, parent: Parent) -> bool:
        """One session with one parent, until it is over. True if it ever was live."""
        found = self._endpoint(parent)
        assert found is not None
        self._attempt += 1
        hello = Hello(
            node=self._hello.node, boot=self._hello.boot, certificate=self._hello.certificate, attempt=self._attempt,
            address=self._hello.address, device_class=self._hello.device_class, previous=self._previous,
            agent=self._hello.agent, serial=self._hello.serial,
        )  # fmt: skip
        conversation = _Conversation(self, parent, self._world.links.dial(*found), hello)
        leaving = self._leave_for_home(parent, conversation) if self._homing.away(parent) else None
        try:
            await conversation.run()
        finally:
            if leaving is not None:
                leaving.cancel()
            await conversation.close()
            self.peer = None
        if conversation.welcomed:
            self._previous = parent.node
        return conversation.welcomed

    def _leave_for_home(self, here: Parent, conversation: _Conversation) -> asyncio.Task[None]:
        async def leave() -> None:
            self._homewards = home = await self._homing.way(here, lambda: self.parents)
            log.info("hop.goes_home", parent=home.node, region=home.region, leaving=here.node)
            conversation.peer.close("it goes home")

        return asyncio.get_running_loop().create_task(leave())

    def patience(self, *, resuming: bool) -> float:
        """Seconds that the present parent gets: less where there is another one to go to."""
        alone = sum(self._endpoint(parent) is not None for parent in self.parents) < 2
        if resuming:
            return math.inf if alone else RESUME_S
        return GREET_S * 4 if alone else GREET_S

    def live(self, peer: Peer) -> None:
        """A parent took us in."""
        self.peer, self.refused, self._hopeless = peer, None, False
        self.offered(peer.session.welcome.parents if peer.session.welcome else ())
        self._changed.set()

    def offered(self, parents: Sequence[Parent]) -> None:
        """The parent says where else to go, best first."""
        if self._roams and parents and list(parents) != self.parents:
            self.parents = list(parents)
            self.on_parents(self.parents)

    async def wait(self, timeout: float) -> Peer:  # noqa: ASYNC109
        """The live parent. Raises Disconnected if there is none within `timeout` seconds, or why we were refused: at
        once when every parent has sent us away for good."""
        until = self._world.now() + timeout
        while self.peer is None or not self.peer.live:
            left = until - self._world.now()
            if self._closing or left <= 0 or self._hopeless:
                raise self.refused or errors.Disconnected("no parent can be reached", hint="is it running?")
            await self._sleep(left)
        return self.peer

    async def call(self, method: str, params: dict[str, object] | None = None, timeout: float = 30.0) -> object:  # noqa: ASYNC109
        """Call the parent, waiting for one first. Raises as `Peer.call`."""
        until = self._world.now() + timeout
        peer = await self.wait(timeout)
        return await peer.call(method, params, max(0.01, until - self._world.now()))

    @property
    def hopeless(self) -> errors.MsrtError | None:
        """Why every parent has sent us away for good, None while there is hope."""
        return self.refused if self._hopeless else None

    def say_address(self, address: Parent) -> None:
        """Where this node listens itself; said from the next greeting on."""
        self._hello = msgspec.structs.replace(self._hello, address=address)

    @property
    def closing(self) -> bool:
        """`close` was called."""
        return self._closing

    def close(self) -> None:
        """Leave the parent; `run` returns."""
        self._closing = True
        self._changed.set()
        if self.peer is not None:
            self.peer.close("stopping")


class _Conversation:
    """One dialled link and the session on it."""

    def __init__(self, uplink: Uplink, parent: Parent, link: Link, hello: Hello) -> None:
        self._uplink, self._parent, self._link = uplink, parent, link
        world = uplink._world  # noqa: SLF001 - one object in two halves
        session = Session(Side.CHILD, hello.node, hello.boot, world.now(), hello=hello)
        self.peer = Peer(world, session, self, None, parent.node)
        self.peer.link, self.peer.route = link, PARENT
        self.peer.on_over = self._over
        self._world, self._handler = world, uplink._handler  # noqa: SLF001
        self._wake = asyncio.Event()
        self.welcomed = False

    async def run(self) -> None:
        """Until the session is over, or the parent took longer to (re)welcome us than we have patience."""
        try:
            await self._link.start(self)
        except (errors.LocalError, errors.InvalidAddress) as error:
            log.warning("hop.cannot_dial", parent=self._parent.node, code=error.code, error=error.text)
            self._uplink.refused = error
            return
        self.peer.perform(self.peer.session.connect(self._world.now()))
        away_since = self._world.now()
        while not self.peer.over and not self._uplink.closing:
            self._wake.clear()
            if self.peer.live:
                await self._wake.wait()
                away_since = self._world.now()
                continue
            patience = self._uplink.patience(resuming=self.welcomed)
            left = away_since + patience - self._world.now()
            if left <= 0:
                self.peer.close(f"no welcome within {patience:g} s")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, RESUME_S)):
                    await self._wake.wait()

    async def close(self) -> None:
        self.peer.close("stopping")
        await self._link.close()

    def _over(self, _peer: Peer, error: Exception | None) -> None:
        if isinstance(error, errors.MsrtError) and (isinstance(error, FATAL) or not self.welcomed):
            self._uplink.refused = error
            log.warning("hop.sent_away", parent=self._parent.node, code=error.code, error=error.text)
            self._uplink.on_sent_away(error)
        self._wake.set()

    # --- the link's sink

    def received(self, _route: Route, _principal: bytes, frames: list[Buffer]) -> None:
        if self.peer.over:
            return
        try:
            packet = wire.decode(frames, self._link.limit)
            self.peer.received_bytes += packet.size
            self.peer.received(packet)
        except errors.MsrtError as error:
            log.warning("hop.refused", peer=self._parent.node, code=error.code, error=error.text)

    def gone(self, _route: Route, error: Exception | None) -> None:
        if self.peer.over:
            return
        if isinstance(error, errors.MsrtError):
            told, self._uplink.refused = self._uplink.refused, error
            if told is None or told.text != error.text:
                log.warning("hop.unreachable", parent=self._parent.node, code=error.code, error=error.text)
            if isinstance(error, errors.WrongServerKey | errors.NotEnrolled | errors.Revoked):
                self.peer.close()
                return
        self.peer.lost()

    def writable(self) -> None:
        self.peer.writable()

    # --- the peer's handler: the tier's, with the uplink told first

    def joined(self, peer: Peer) -> None:
        self.welcomed = True
        self._uplink.live(peer)
        self._handler.joined(peer)
        self._wake.set()

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        if self._uplink.peer is peer:
            self._uplink.peer = None
        if self.welcomed:
            self._handler.left(peer, error, final=final)
        if not final:
            peer.perform(peer.session.connect(self._world.now()))
        self._wake.set()

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        if isinstance(message, Parents):
            self._uplink.offered(message.parents)
            return
        self._handler.message(peer, message, frames)

    async def called(self, peer: Peer, method: str, params: dict[str, object]) -> object:
        return await self._handler.called(peer, method, params)

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        return self._handler.stream(peer, opened)

    async def stored(self, peer: Peer, messages: list[Message]) -> None:
        await self._handler.stored(peer, messages)


class _Answer:
    """The sink of an enrolment: the first word that is about it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.future: asyncio.Future[Enrolled] = asyncio.get_running_loop().create_future()
        self.unreachable: Exception | None = None
        """The link's last word, while nothing else came."""

    def received(self, _route: Route, _principal: bytes, frames: list[Buffer]) -> None:
        if self.future.done():
            return
        try:
            message = wire.decode(frames, self._limit).message
        except errors.PeerError as error:
            log.warning("hop.refused", code=error.code, error=error.text)
            return
        if isinstance(message, Enrolled):
            self.future.set_result(message)
        elif isinstance(message, Refuse):
            self.future.set_exception(errors.from_wire(message.code, message.text, message.hint))

    def gone(self, _route: Route, error: Exception | None) -> None:
        if isinstance(error, errors.Disconnected):
            self.unreachable = error
        elif error is not None and not self.future.done():
            self.future.set_exception(error)

    def writable(self) -> None:
        """Connected; the next resend goes out."""
        self.unreachable = None


async def enrol(world: World, url: str, credentials: Credentials, request: Enrol, timeout: float = 15.0) -> Enrolled:  # noqa: ASYNC109
    """Spend an invite at a parent. Raises the invite errors, WrongServerKey, Unavailable, Disconnected (nobody is
    there), DeadlineExceeded.

    Said again and again until answered: a parent answers a repeated request of the same key with the same
    certificate.
    """
    link = world.links.dial(url, credentials)
    answer = _Answer(link.limit)
    await link.start(answer)
    began = world.now()
    try:
        while True:
            link.send(PARENT, wire.encode(request))
            left = began + timeout - world.now()
            done, _ = await asyncio.wait([answer.future], timeout=min(ENROL_AGAIN_S, max(0.01, left)))
            if done:
                return answer.future.result()
            if answer.unreachable is not None and world.now() - began > min(UNREACHABLE_S, timeout):
                raise answer.unreachable
            if world.now() - began >= timeout:
                raise errors.DeadlineExceeded(
                    f"{url} did not answer within {timeout:g} s",
                    hint="check that it runs, and that the address and key in the invite are still its own",
                )
    finally:
        if not answer.future.done():
            answer.future.cancel()
        await link.close()
