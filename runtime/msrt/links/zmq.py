"""ZeroMQ: ROUTER for a master, DEALER for who dials it, CURVE between them, driven by the event loop alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as sockets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.endpoint import parse_endpoint
from msrt.links.link import PARENT, Credentials, Link, Route, Sink
from msrt.links.zmq_base import HANDSHAKE_FAILED, Context, Lent, Peer, ZmqLink, bind, prepare, secure
from msrt.links.zmq_watch import Authenticator, Monitor, MonitorEvent, Readable, raw_key

__all__ = ["ZmqDialer", "ZmqListener", "dial", "listen"]

ATTEMPT_S: Final = 5.0
"""A dial that has neither succeeded nor failed by then (a name that does not resolve) has failed."""
CONNECT_MS: Final = 2000
NEVER_MS: Final = 3_600_000
"""Until libzmq dials again by itself: a connection that ends takes its socket along first. Told not to dial again (-1),
or to send only where it is connected (IMMEDIATE), libzmq 4.3.5 drops what was not read yet when a connection ends, and
aborts the process where that was in the middle of a packet (fq.cpp).
"""
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
_SRCFD: Final = int(zmq.SRCFD)


def listen(url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> Link:
    """A master's end, tcp:// or ipc://."""
    return ZmqListener(url, credentials, allow)


def dial(url: str, credentials: Credentials) -> Link:
    """The end that dials."""
    return ZmqDialer(url, credentials, random_bytes=os.urandom)


class ZmqListener(ZmqLink):
    """A master's end. `allow(public key)` is asked at every handshake; a live connection is ended with `drop`.

    A route is the peer's routing id. The descriptor that each packet came from says when its connection has died.
    Refused handshakes are told to the sink as `gone(b"", error)`.
    """

    def __init__(self, url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> None:
        super().__init__(url, credentials)
        self._allow = allow
        self._zap: Authenticator | None = None
        self._peers: dict[Route, Peer] = {}
        self._routes: dict[int, Route] = {}
        self._open: set[int] = set()
        self._dropped: set[int] = set()
        self._lost: deque[int] = deque()
        self._keys: dict[str, bytes] = {"": b""}

    async def start(self, sink: Sink) -> None:
        self._sink, self._context = sink, Context()
        if self._credentials.secret_key:
            self._zap = Authenticator(self._context, self._allow)
        socket = self._opened(self._context.socket(zmq.ROUTER))
        prepare(socket, self.address, server=True)
        secure(socket, self._credentials, server=True)
        socket.router_mandatory = socket.router_handover = True
        socket.backlog = 1024
        self._monitor = Monitor(
            self._context, socket, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | HANDSHAKE_FAILED, self._happened
        )
        try:
            self.address = bind(socket, self.address)
        except errors.MsrtError:
            await self.close()
            raise
        self._readable = Readable(socket, self._read)

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        peer = self._peers.get(route)
        if peer is None:
            raise errors.Disconnected("no such peer on this link")
        return self._put(peer, route, frames)

    def drop(self, route: Route) -> None:
        """Shut the peer's connection down. libzmq notices as if the peer had; nobody is told `gone`."""
        peer = self._peers.pop(route, None)
        if peer is None or self._monitor is None:
            return
        self._monitor.drain()
        self._routes.pop(peer.fd, None)
        if peer.fd not in self._open:
            return
        self._dropped.add(peer.fd)
        with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(peer.fd)) as connection:
            connection.shutdown(sockets.SHUT_RDWR)

    async def close(self) -> None:
        if self._zap is not None:
            self._zap.close()
        self._peers.clear()
        await super().close()

    def _packet(self, socket: zmq.Socket[bytes]) -> None:
        route = socket.recv(zmq.NOBLOCK)
        first = socket.recv(zmq.NOBLOCK, copy=False)
        fd = int(first.get(_SRCFD))
        user = str(first.get("User-Id")) if self._zap else ""
        frames, size = self._rest(socket, first)
        if fd in self._dropped:
            return
        peer = self._peers.get(route)
        if peer is None or peer.fd != fd or peer.user != user:
            peer = self._learn(route, fd, user)
        if self._sink is None:
            return
        if size > self.limit:
            self.drop(route)
            self._sink.gone(route, errors.FrameTooLarge(size, self.limit))
            return
        self._sink.received(route, peer.principal, frames)

    def _learn(self, route: Route, fd: int, user: str) -> Peer:
        """Note whose packets come from this descriptor, after hearing what became of its number's last owner."""
        assert self._monitor is not None
        self._monitor.drain()
        old = self._routes.get(fd)
        if old is not None and old != route:
            self._forget(old)
        before = self._peers.get(route)
        if before is not None:
            self._routes.pop(before.fd, None)
        if user not in self._keys:
            if len(self._keys) > 10_000:
                self._keys = {"": b""}
            self._keys[user] = raw_key(user)
        peer = self._peers[route] = Peer(self._keys[user], user, fd)
        self._routes[fd] = route
        if fd not in self._open:  # it spoke and died before we listened
            self._lost.append(fd)
        return peer

    def _happened(self, event: MonitorEvent) -> None:
        match event.event:
            case zmq.Event.ACCEPTED:
                self._open.add(event.value)
                self._dropped.discard(event.value)
            case zmq.Event.DISCONNECTED:
                self._open.discard(event.value)
                if event.value in self._routes:
                    self._lost.append(event.value)
                    if self._readable is not None:
                        self._readable.again()
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._refused(errors.NotEnrolled("a client's key was refused"))
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._refused(errors.Disconnected("a client gave the handshake up"))
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._refused(errors.WrongServerKey("a client does not know our key, or speaks no CURVE", hint=""))

    def _refused(self, error: errors.PeerError) -> None:
        if self._sink is not None:
            self._sink.gone(b"", error)

    def _empty(self) -> None:
        while self._lost:
            route = self._routes.get(self._lost.popleft())
            if route is not None:
                self._forget(route)

    def _forget(self, route: Route) -> None:
        peer = self._peers.pop(route)
        self._routes.pop(peer.fd, None)
        if self._sink is not None:
            self._sink.gone(route, None)


class ZmqDialer(ZmqLink):
    """The end that dials. Every attempt is a fresh socket with a fresh routing id, so no packet of an old connection
    can reach the next one; backoff is ours.

    `send` says False until connected and `writable` is called then, at every connection. `gone(PARENT, error)` is
    called when a connection ends (error None) or an attempt fails.
    """

    def __init__(self, url: str, credentials: Credentials, *, random_bytes: Callable[[int], bytes]) -> None:
        super().__init__(parse_endpoint(url, "tcp", "ipc").url, credentials)
        self._random_bytes = random_bytes
        self._lent = Lent()
        self._connected = False
        self._hangups = 0
        self._backoff_s = BACKOFF_S
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, sink: Sink) -> None:
        self._sink, self._context = sink, Context()
        self._attempt()

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        if route != PARENT or self._sink is None:
            raise errors.Disconnected("no such peer on this link")
        return self._put(self._lent, b"", frames) if self._connected else False

    def drop(self, route: Route) -> None:
        if route == PARENT and self._connected:
            self._over(None, quiet=True)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await super().close()

    def _attempt(self) -> None:
        assert self._context is not None
        socket = self._opened(self._context.socket(zmq.DEALER))
        prepare(socket, self.address, server=False)
        secure(socket, self._credentials, server=False)
        socket.routing_id = b"\x01" + self._random_bytes(15)  # a first byte of zero is libzmq's own
        socket.connect_timeout = CONNECT_MS
        socket.reconnect_ivl = NEVER_MS
        self._lent = Lent()
        events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | zmq.Event.CLOSED | HANDSHAKE_FAILED
        self._monitor = Monitor(self._context, socket, events, self._happened)
        self._timer = asyncio.get_running_loop().call_later(ATTEMPT_S, self._expired)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            raise errors.InvalidAddress(f"{self.address} cannot be dialled: {error.strerror}") from error
        self._readable = Readable(socket, self._read)

    def _expired(self) -> None:
        self._over(errors.Disconnected(f"{self.address} did not answer in {ATTEMPT_S:g} s", hint="is the name right?"))

    def _packet(self, socket: zmq.Socket[bytes]) -> None:
        frames, size = self._rest(socket, socket.recv(zmq.NOBLOCK, copy=False))
        if self._sink is None:
            return
        if size > self.limit:
            self._over(errors.FrameTooLarge(size, self.limit))
            return
        self._sink.received(PARENT, self._credentials.server_key, frames)

    def _happened(self, event: MonitorEvent) -> None:
        where = self.address
        match event.event:
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._live()
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._over(errors.NotEnrolled(f"{where} refused our key: it is not of an enrolled node"))
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL if event.value in (errno.EPIPE, errno.ECONNRESET):
                self._hung_up()
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._over(errors.Disconnected(f"{where} did not finish the handshake"))
            case zmq.Event.CLOSED:
                self._over(errors.Disconnected(f"{where} cannot be reached", hint="is it running?"))
            case zmq.Event.DISCONNECTED:
                while not self._read():  # its last words come first
                    pass
                self._over(None)

    def _live(self) -> None:
        assert self._socket is not None
        if self._timer is not None:
            self._timer.cancel()
        self._connected, self._hangups, self._backoff_s = True, 0, BACKOFF_S
        self._socket.getsockopt(zmq.EVENTS)  # lets the socket see its new connection before the first send
        self._room()

    def _hung_up(self) -> None:
        """A server without our `server_key` cannot answer and closes; so does one that is dying. The next one knows."""
        self._hangups += 1
        if self._hangups == 1:
            self._over(None, quiet=True)
        else:
            self._over(
                errors.WrongServerKey(
                    f"{self.address} does not hold the key we expect",
                    hint="check the address; if the server was set up anew, join again with a new invite",
                )
            )

    def _over(self, error: errors.PeerError | None, *, quiet: bool = False) -> None:
        """End this attempt or connection, and dial again later."""
        if self._socket is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._connected = False
        self._disconnect()
        pause = self._backoff_s * (0.5 + self._random_bytes(1)[0] / 255)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        self._timer = asyncio.get_running_loop().call_later(pause, self._attempt)
        if not quiet and self._sink is not None:
            self._sink.gone(PARENT, error)
