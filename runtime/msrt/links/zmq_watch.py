"""What watches over a ZeroMQ context on the event loop: a readable socket, the authenticator, the socket monitor."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog
import zmq

__all__ = ["Authenticator", "Monitor", "MonitorEvent", "Readable", "raw_key"]

log = structlog.get_logger()
ZAP_ADDRESS: Final = "inproc://zeromq.zap.01"
ZAP_DOMAIN: Final = b"msrt"
_EVENT: Final = struct.Struct("=HI")


def raw_key(z85: str | bytes) -> bytes:
    """The 32 raw bytes of a CURVE key that libzmq shows as Z85 text."""
    from zmq.utils import z85 as codec  # noqa: PLC0415 - only links with CURVE pay for it

    return bytes(codec.decode(z85))


class Readable:
    """Calls `drain()` until it says it is done, whenever a socket may have something.

    The socket's descriptor is edge-triggered: one signal for any number of packets, and any call on the socket may
    eat it. So `drain` reads until there is nothing (True) or its fairness bound (False: it is called again on the next
    turn of the loop), and whoever sends looks whether to call `again`.
    """

    def __init__(self, socket: zmq.Socket[bytes], drain: Callable[[], bool]) -> None:
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._scheduled = False
        self._open = True
        self._loop.add_reader(self._fd, self.now)
        self.again()

    def now(self) -> None:
        """Drain at once. A drain that raises is tried again on the next turn: nothing that is queued may be lost."""
        if not self._open:
            return
        done = False
        try:
            done = self._drain()
        finally:
            if not done:
                self.again()

    def again(self) -> None:
        """Drain on the loop's next turn."""
        if not self._scheduled and self._open:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.now()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)


class Authenticator:
    """The ZAP handler of one context: a CURVE client may connect if its key is well formed and `allow` says yes.

    Its answer names the client's public key (Z85) as User-Id, so that every packet carries who sent it.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allow: Callable[[bytes], bool]) -> None:
        self._allow = allow
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ZAP_ADDRESS)
        self._readable = Readable(self._socket, self._requests)

    def _requests(self) -> bool:
        while True:
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            status, user = self._judge(request)
            version, number = (request[0], request[1]) if len(request) > 1 else (b"1.0", b"")
            self._socket.send_multipart([version, number, status, b"", user, b""], zmq.NOBLOCK)

    def _judge(self, request: list[bytes]) -> tuple[bytes, bytes]:
        # version, request id, domain, address, routing id, mechanism, then the mechanism's own: the client's key
        if len(request) != 7 or request[0] != b"1.0" or request[5] != b"CURVE" or len(request[6]) != 32:
            return b"400", b""
        key = request[6]
        if not self._allow(key):
            log.info("zmq.refused", key=key.hex(), address=request[3].decode("ascii", "replace"))
            return b"400", b""
        from zmq.utils import z85  # noqa: PLC0415

        return b"200", z85.encode(key)

    def close(self) -> None:
        self._readable.close()
        self._socket.close(0)


class MonitorEvent(NamedTuple):
    """One event of a socket's connections; `value` is a file descriptor, an errno or a ZAP status."""

    event: int
    value: int


class Monitor:
    """The events of one socket, in order. Read by `drain`, which the loop calls, and which may be called early."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        events: int,
        handle: Callable[[MonitorEvent], None],
    ) -> None:
        self._handle = handle
        self._watched = socket
        address = f"inproc://msrt.monitor.{id(self):x}"
        socket.monitor(address, events)
        self._socket = context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.rcvhwm = 0  # libzmq's I/O thread would wait for us at a bound
        self._socket.connect(address)
        self._readable = Readable(self._socket, self.drain)

    def drain(self) -> bool:
        """Handle everything that has happened."""
        while not self._socket.closed:
            try:
                head, *_address = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            self._handle(MonitorEvent(*_EVENT.unpack(head)))
        return True

    def close(self) -> None:
        self._readable.close()
        if not self._watched.closed:
            self._watched.disable_monitor()
        self._socket.close(0)
