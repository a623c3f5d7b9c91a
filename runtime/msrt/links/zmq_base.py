"""What both ends of a ZeroMQ link share: options, sending with back-pressure, reading until there is nothing.

libzmq's defaults lose packets without a word and never notice a stopped peer; every one of them is set here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket as sockets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.endpoint import parse_endpoint
from msrt.links.link import Credentials, Route, Sink
from msrt.links.zmq_watch import ZAP_DOMAIN, Monitor, Readable
from msrt.protocol.wire import MAX_FRAMES, ZMQ_LIMIT

__all__ = ["HANDSHAKE_FAILED", "Context", "Lent", "Peer", "ZmqLink", "bind", "prepare", "secure"]

LEND_FROM: Final = 64 << 10
"""Frames of this size and more are sent and received without a copy."""
LENT_LIMIT: Final = 16 << 20
"""Bytes of lent frames that may wait in libzmq for one peer: its own bound counts packets, not bytes."""
QUEUE: Final = 512
"""Packets that may wait in libzmq for one peer, each way."""
BURST: Final = 4
FAIR: Final = 64
FAIR_BYTES: Final = 1 << 20
"""Packets and bytes read in one turn of the loop: chunks of streams yield to everything else."""
HEARTBEAT_MS: Final = 300
LISTENER_HEARTBEAT_MS: Final = 700
"""Who dialled says with each of its own how long it may be silent: a master of a thousand need ask no more than for
those that never said it."""
SILENCE_MS: Final = 1000
"""Without a heartbeat for so long a connection is closed: a stopped process holds its sockets open."""
HANDSHAKE_MS: Final = 2000
UNBLOCK_S: Final = 0.002
UNBLOCK_MAX_S: Final = 0.05
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_LAST: Final = int(zmq.NOBLOCK)
_READABLE: Final = int(zmq.POLLIN)
"""Plain numbers: `|` of pyzmq's own flags costs eight times what it is asked with."""
HANDSHAKE_FAILED: Final = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
)
Context = zmq.Context[zmq.Socket[bytes]]


def _closed(*_frame: object) -> None:
    raise errors.Disconnected("this link is closed")


def _size(frame: Buffer) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def secure(socket: zmq.Socket[bytes], credentials: Credentials, *, server: bool) -> None:
    """CURVE on one socket, or nothing (tests) when there is no secret key."""
    if not credentials.secret_key:
        return
    from zmq.utils import z85  # noqa: PLC0415

    socket.curve_secretkey = credentials.secret_key
    socket.curve_publickey = zmq.curve_public(z85.encode(credentials.secret_key))
    if server:
        socket.curve_server = True
        socket.zap_domain = ZAP_DOMAIN
    elif len(credentials.server_key) == 32:
        socket.curve_serverkey = credentials.server_key
    else:
        raise errors.CallerError("dialling needs the server's public key", hint="join with an invite that names it")


def prepare(socket: zmq.Socket[bytes], url: str, *, server: bool) -> None:
    """Options of one socket."""
    socket.linger = 0
    socket.sndtimeo = socket.rcvtimeo = 1000
    socket.sndhwm = socket.rcvhwm = QUEUE
    socket.maxmsgsize = ZMQ_LIMIT + 1024  # CURVE wraps a frame
    socket.heartbeat_ivl = LISTENER_HEARTBEAT_MS if server else HEARTBEAT_MS
    socket.heartbeat_timeout = socket.heartbeat_ttl = SILENCE_MS
    socket.handshake_ivl = HANDSHAKE_MS
    socket.tcp_keepalive = 1
    socket.ipv6 = "[" in url


class Lent:
    """What one peer has of ours: frames that libzmq still reads from our memory."""

    def __init__(self) -> None:
        self.bytes = 0
        self._trackers: deque[tuple[zmq.MessageTracker, int]] = deque()

    def add(self, tracker: zmq.MessageTracker, size: int) -> None:
        self._trackers.append((tracker, size))
        self.bytes += size

    def full(self) -> bool:
        while self._trackers and self._trackers[0][0].done:
            self.bytes -= self._trackers.popleft()[1]
        return self.bytes > LENT_LIMIT


class Peer(Lent):
    """One connection of a listener."""

    def __init__(self, principal: bytes, user: str, fd: int) -> None:
        super().__init__()
        self.principal, self.user, self.fd = principal, user, fd


class ZmqLink:
    """What both ends share: sending with back-pressure, and reading until there is nothing."""

    limit = ZMQ_LIMIT

    def __init__(self, url: str, credentials: Credentials) -> None:
        self.address = url
        self.sent_bytes = self.received_bytes = 0
        self._credentials = credentials
        self._context: Context | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._polled: list[tuple[Any, int]] = []
        """The socket, as it is asked whether anything has come."""
        self._send: Callable[..., Any] = _closed
        """The socket's own `send`, without pyzmq's Python half: a call less for each frame."""
        self._readable: Readable | None = None
        self._monitor: Monitor | None = None
        self._sink: Sink | None = None
        self._unblock: asyncio.TimerHandle | None = None
        self._unblock_s = UNBLOCK_S
        self._reading = False
        self._sparse = True
        """Few packets came together the last time."""

    def _put(self, lent: Lent, route: Route, frames: Sequence[Buffer]) -> bool:
        sizes = [len(frame) if type(frame) is bytes else _size(frame) for frame in frames]
        size = sum(sizes)
        if size > self.limit:
            raise errors.FrameTooLarge(size, self.limit)
        if not 0 < len(frames) <= MAX_FRAMES:
            raise errors.CallerError(f"a packet has 1 to {MAX_FRAMES} frames, not {len(frames)}")
        if self._socket is None or self._readable is None:
            raise errors.Disconnected("this link is closed")
        if lent.bytes > LENT_LIMIT and lent.full():
            return self._block()
        send, last = self._send, len(frames) - 1
        try:
            if route:
                send(route, _MORE)
            for index, frame in enumerate(frames):
                flags = _MORE if index < last else _LAST
                if sizes[index] < LEND_FROM or not memoryview(frame).readonly:
                    send(frame, flags)
                else:
                    lent.add(send(frame, flags, copy=False, track=True), sizes[index])
        except zmq.Again:
            return self._block()
        except zmq.ZMQError as error:
            if error.errno in (errno.EHOSTUNREACH, errno.ENOTCONN):
                raise errors.Disconnected("the peer has left this link") from None
            raise
        self._unblock_s = UNBLOCK_S
        self.sent_bytes += size
        if not self._reading and self._waits():  # the call may have eaten the descriptor's signal
            self._readable.again()
        return True

    def _block(self) -> bool:
        """Say False now and `writable` soon: libzmq's own word of room may be eaten by any other call."""
        if self._unblock is None:
            self._unblock = asyncio.get_running_loop().call_later(self._unblock_s, self._room)
            self._unblock_s = min(self._unblock_s * 2, UNBLOCK_MAX_S)
        return False

    def _room(self) -> None:
        if self._unblock is not None:
            self._unblock.cancel()
            self._unblock = None
        if self._sink is not None:
            self._sink.writable()

    def _read(self) -> bool:
        """A turn of reading. True when the socket is empty.

        That is asked while packets come one at a time, for an EAGAIN costs as much as five such questions, and found
        out by EAGAIN where they come in bursts.
        """
        enough, count = self.received_bytes + FAIR_BYTES, 0
        self._reading = True
        try:
            while count < FAIR and self.received_bytes < enough:
                if self._socket is None:
                    return True
                if self._sparse and not self._waits():
                    break
                self._packet(self._socket)
                count += 1
            else:
                return False
        except zmq.Again:
            pass
        finally:
            self._reading, self._sparse = False, count < BURST
        self._empty()
        return True

    def _waits(self) -> bool:
        """Has anything come? Asked by a poll that does not wait: EVENTS says the same, but pyzmq looks its number up in
        an enumeration each time, at a third of the price."""
        return bool(zmq.zmq_poll(self._polled, 0))

    def _opened(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        self._socket, self._polled = socket, [(socket, _READABLE)]
        self._send = super(zmq.Socket, socket).send
        return socket

    def _packet(self, socket: zmq.Socket[bytes]) -> None:
        raise NotImplementedError

    def _empty(self) -> None:
        """Everything that had come is read."""

    def _rest(self, socket: zmq.Socket[bytes], first: zmq.Frame) -> tuple[list[Buffer], int]:
        """The packet that begins with `first`, and its size; large frames as views, small ones copied.

        Of too many frames one too many is kept: `wire.decode` then says so.
        """
        frame, size = first, 0
        frames: list[Buffer] = []
        while True:
            length = len(frame)
            size += length
            if len(frames) <= MAX_FRAMES and size <= self.limit:
                frames.append(frame.bytes if length < LEND_FROM else frame.buffer)
            if not frame.more:
                break
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        self.received_bytes += size
        return frames, size

    async def close(self) -> None:
        """Close at once; what libzmq has not sent yet is lost, as it would be in a crash."""
        self._sink = None
        if self._unblock is not None:
            self._unblock.cancel()
        self._disconnect()
        if self._context is not None:
            self._context.destroy(0)
            self._context = None

    def _disconnect(self) -> None:
        for part in (self._readable, self._monitor):
            if part is not None:
                part.close()
        if self._socket is not None:
            self._socket.close(0)
        self._readable = self._monitor = self._socket = None
        self._polled, self._send = [], _closed


def bind(socket: zmq.Socket[bytes], url: str) -> str:
    """Bind, and give the address with its real port. Raises PortInUse, InvalidAddress."""
    endpoint = parse_endpoint(url.replace("//*", "//0.0.0.0"), "tcp", "ipc")
    if endpoint.path:
        _refuse_taken(endpoint.path)
    elif endpoint.host == "localhost":
        endpoint = endpoint._replace(host="127.0.0.1")
    try:
        socket.bind(endpoint.url)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise errors.PortInUse(f"{url} is taken by another process") from error
        raise errors.InvalidAddress(f"cannot listen on {url}: {error.strerror}") from error
    if endpoint.path:
        os.chmod(endpoint.path, 0o600)  # noqa: PTH101
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def _refuse_taken(path: str) -> None:
    """Refuse a path in use: libzmq removes the socket file of a living process without asking."""
    with sockets.socket(sockets.AF_UNIX) as probe:
        if os.path.exists(path) and probe.connect_ex(path) == 0:  # noqa: PTH110
            raise errors.PortInUse(f"ipc://{path} is taken by another process")
