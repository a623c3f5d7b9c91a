"""A parent's end of many hops: admits children, keeps one `Peer` per node over any number of links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop.handler import Handler
from msrt.hop.leases import Leases
from msrt.hop.peer import Peer, refusal
from msrt.links.link import Link, Route
from msrt.protocol import wire
from msrt.protocol.address import check_serial
from msrt.protocol.channel import RoundTrip
from msrt.protocol.messages import Enrol, Enrolled, Fence, Hello, Message, Parent, Parents, Welcome
from msrt.protocol.session import Session, Side
from msrt.trust.certificate import Certificate
from msrt.trust.roles import Role, check_message
from msrt.world.world import World

__all__ = ["Downlink", "Gate"]

log = structlog.get_logger()
CHILDREN = 4096
"""At a time; one more is told to go elsewhere."""
SESSIONS = 256
MAX_ENROLMENTS = 64
"""At work at once; more are told to come back."""
MANY = (Role.CLIENT, Role.OPERATOR)
"""Roles whose identity may be used by several processes at a time: an application and a command beside it."""


class Gate(Protocol):
    """Who may come in."""

    def admit(self, hello: Hello, principal: bytes) -> Certificate:
        """Check a hello against what the transport proved. Raises NotEnrolled, Revoked, BadSignature, Forbidden."""

    def parents(self, certificate: Certificate) -> tuple[Parent, ...]:
        """Where that node may go when we are gone, best first."""

    async def enrol(self, enrol: Enrol, principal: bytes) -> Enrolled:
        """Spend an invite, or relay it. Raises the invite errors, Unavailable."""


class _LinkSink:
    """What one link brings, with the link's name on it."""

    def __init__(self, downlink: Downlink, link: Link) -> None:
        self._downlink, self.link = downlink, link
        self.routes: dict[Route, Peer] = {}

    def received(self, route: Route, principal: bytes, frames: list[Buffer]) -> None:
        self._downlink.received(self, route, principal, frames)

    def gone(self, route: Route, error: Exception | None) -> None:
        peer = self.routes.pop(route, None)
        node = peer.node if peer is not None else ""
        if error is not None:
            self._downlink.refused += bool(route)
            code = getattr(error, "code", type(error).__name__)
            log.info("hop.refused_by_link", peer=node, code=code, error=errors.words_of(error))
        elif peer is not None:
            log.info("hop.link_lost", peer=node)
        if peer is not None and peer.route == route and peer.link is self.link:
            peer.lost()

    def writable(self) -> None:
        for peer in list(self.routes.values()):
            if peer.congested:
                peer.writable()


class Downlink:
    """All the children of one parent.

    `epoch`: where this process's lease epochs begin; larger than any of its earlier lives (see `next_epoch`).
    """

    def __init__(
        self,
        world: World,
        node: str,
        boot: int,
        handler: Handler,
        gate: Gate,
        *,
        lease_s: float,
        epoch: int,
        children: int = CHILDREN,
    ) -> None:
        self._world, self._node, self._boot = world, node, boot
        self._handler, self._gate, self._leases = handler, gate, Leases(lease_s)
        self._epoch, self._children = epoch, children
        self._trip = RoundTrip()
        self.sessions = SESSIONS
        """Of one identity at a time, where it may have many."""
        self._sinks: list[_LinkSink] = []
        self._enrolling: dict[asyncio.Task[None], None] = {}
        self.peers: dict[str, Peer] = {}
        """By node id; by node id and boot where one identity may have many processes (see MANY)."""
        self.refused = 0
        """Packets that were no messages, or not allowed."""
        self.on_traffic: Callable[[str, int, int], None] = lambda _link, _sent, _received: None

    @property
    def links(self) -> list[Link]:
        """The open links."""
        return [sink.link for sink in self._sinks]

    async def listen(self, link: Link) -> None:
        """Open a link and take children from it. Raises PortInUse, BrokerFailed."""
        sink = _LinkSink(self, link)
        await link.start(sink)
        self._sinks.append(sink)

    def next_epoch(self) -> int:
        """A lease epoch never used before by this parent."""
        self._epoch += 1
        return self._epoch

    def received(self, sink: _LinkSink, route: Route, principal: bytes, frames: list[Buffer]) -> None:
        """One packet from a link."""
        peer = sink.routes.get(route)
        try:
            packet = wire.decode(frames, sink.link.limit)
            message = packet.message
            if peer is not None and not isinstance(message, Hello | Enrol):
                if principal != peer.principal:
                    raise errors.Forbidden("this route belongs to another key")
                check_message(peer.role, message)
                peer.received_bytes += packet.size
                peer.received(packet)
            elif isinstance(message, Hello):
                self._hello(sink, route, principal, message)
            elif isinstance(message, Enrol):
                self._enrol(sink, route, principal, message)
            else:
                log.info("hop.fenced", message=type(message).__name__)
                self._say(sink, route, Fence(0))
        except errors.MsrtError as error:
            self.refused += 1
            log.warning("hop.refused", peer=peer.node if peer else "", code=error.code, error=error.text)
            self._say(sink, route, refusal(error) if peer is None else None)

    def _say(self, sink: _LinkSink, route: Route, message: Message | None) -> None:
        if message is None:
            return
        try:
            sink.link.send(route, wire.encode(message))
        except errors.Disconnected:
            log.debug("hop.answer_undeliverable", message=type(message).__name__)

    def _hello(self, sink: _LinkSink, route: Route, principal: bytes, hello: Hello) -> None:
        certificate = self._gate.admit(hello, principal)
        check_serial(hello.serial)
        key = f"{hello.node}/{hello.boot}" if certificate.role in MANY else hello.node
        peer = self.peers.get(key)
        if peer is not None and peer.session.stale(hello):
            return
        if peer is None:
            self._check_room(certificate)
            now = self._world.now()
            lease_s = self._leases.of(key, hello.boot, now)
            session = Session(Side.PARENT, self._node, self._boot, now, lease_s=lease_s, trip=self._trip)
            peer = Peer(self._world, session, self._handler, certificate, hello.node)
            peer.on_over = self._over
            self.peers[key] = peer
        elif peer.link is not sink.link or peer.route != route:
            self._forget_route(peer)
        before = sink.routes.get(route)
        if before is not None and before is not peer:
            before.link = None  # a connection has one process: of the other nobody is left to hear a goodbye
            before.close("another process greets on its connection")
        peer.certificate, peer.principal = certificate, principal
        peer.address, peer.device_class, peer.previous = hello.address, hello.device_class, hello.previous
        peer.agent = hello.agent
        peer.serial = hello.serial
        peer.link, peer.route = sink.link, route
        sink.routes[route] = peer
        offer = Welcome(
            node=self._node, boot=self._boot, session=self.next_epoch(), resumed=False, epoch=self._epoch,
            lease_s=peer.session.lease_s, parents=self._gate.parents(certificate),
        )  # fmt: skip
        peer.perform(peer.session.admit(hello, offer, self._world.now()))

    def _check_room(self, certificate: Certificate) -> None:
        """May one more come? One identity must not take the place of all others."""
        if len(self.peers) >= self._children:
            raise errors.Overloaded(f"{self._children} nodes are here already", hint="raise `workers`, or add an edge")
        if certificate.role not in MANY:
            return
        theirs = sum(peer.node == certificate.node for peer in self.peers.values())
        if theirs >= self.sessions:
            raise errors.Overloaded(
                f"{certificate.name} has {theirs} sessions already",
                hint="close some, give each application an invite of its own, or raise `client_sessions`",
            )

    def _forget_route(self, peer: Peer) -> None:
        for sink in self._sinks:
            if sink.link is peer.link and sink.routes.get(peer.route) is peer:
                del sink.routes[peer.route]
                sink.link.drop(peer.route)

    def _over(self, peer: Peer, _error: Exception | None) -> None:
        for key in (peer.node, f"{peer.node}/{peer.session.peer_boot}"):
            if self.peers.get(key) is peer:
                del self.peers[key]
                if peer.session.expired:
                    session = peer.session
                    self._leases.ran_out(key, session.peer_boot, session.lease_s, self._world.now())
        self._forget_route(peer)

    def _enrol(self, sink: _LinkSink, route: Route, principal: bytes, enrol: Enrol) -> None:
        if len(self._enrolling) >= MAX_ENROLMENTS:
            raise errors.Overloaded("too many nodes are joining at once", hint="it will be tried again")
        task = asyncio.get_running_loop().create_task(self._answer_enrol(sink, route, principal, enrol))
        self._enrolling[task] = None
        task.add_done_callback(self._enrolling.pop)

    async def _answer_enrol(self, sink: _LinkSink, route: Route, principal: bytes, enrol: Enrol) -> None:
        try:
            self._say(sink, route, await self._gate.enrol(enrol, principal))
        except errors.MsrtError as error:
            log.warning("hop.enrolment_refused", name=enrol.name, code=error.code, error=error.text)
            self._say(sink, route, refusal(error))

    def offer_parents(self) -> None:
        """The list of parents changed: tell every child."""
        for peer in list(self.peers.values()):
            if peer.live and peer.certificate is not None:
                peer.send(Parents(self._gate.parents(peer.certificate)))

    def expel(self, node: str, error: errors.MsrtError) -> None:
        """End a node's sessions with a reason (a revoked node)."""
        for peer in [peer for peer in self.peers.values() if peer.node == node]:
            peer.refuse(error)

    async def close(self, reason: str = "") -> None:
        """Say goodbye to every child and close the links."""
        for task in list(self._enrolling):
            task.cancel()
        for peer in list(self.peers.values()):
            peer.close(reason)
        for sink in self._sinks:
            await sink.link.close()
        self._sinks.clear()
