"""Bytes to a board and back: a serial port or a TCP connection, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import termios
import tty
from collections.abc import Callable
from typing import Any, Final, Protocol

from msrt.errors import Disconnected, InvalidConfig
from msrt.statedir import split_address

__all__ = ["Line", "open_line", "parse_serial"]

OPEN_S: Final = 5.0
_READ: Final = 4096
_WAITING: Final = 1 << 16
"""Bytes that a port did not take yet: more means that nothing drains it."""
DEFAULT_BAUD: Final = 115_200


class Line(Protocol):
    """An open line. What it was opened with is called with what arrives, and once when it ends."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def parse_serial(text: str) -> tuple[str, int]:
    """PATH or PATH@BAUD. Raises InvalidConfig."""
    path, _, baud = text.partition("@")
    if baud and not baud.isdigit():
        raise InvalidConfig(f"serial = {text!r}: {baud!r} is no speed", hint="as in /dev/ttyACM0@115200")
    return path, int(baud) if baud else DEFAULT_BAUD


async def open_line(serial: str, tcp: str, heard: Callable[[bytes], None], ended: Callable[[], None]) -> Line:
    """The one that is named. Raises Disconnected (nothing is there) and InvalidConfig."""
    if bool(serial) == bool(tcp):
        raise InvalidConfig(
            "a board is at a serial port or at a TCP address", hint="give --serial or --tcp, one of them"
        )
    try:
        if serial:
            return _Serial(*parse_serial(serial), heard, ended)
        async with asyncio.timeout(OPEN_S):
            host, port = split_address(tcp, "tcp")
            _, protocol = await asyncio.get_running_loop().create_connection(lambda: _Tcp(heard, ended), host, port)
            return protocol
    except (OSError, TimeoutError, termios.error) as error:
        raise Disconnected(f"no board at {serial or tcp}: {error}") from error


class _Tcp(asyncio.Protocol):
    """One connection."""

    def __init__(self, heard: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._heard, self._ended = heard, ended
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._heard(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended()

    def write(self, data: bytes) -> None:
        if self._transport is not None and self._transport.get_write_buffer_size() < _WAITING:
            self._transport.write(data)  # what has no room is lost, as on a wire, and said again

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Serial:
    """A terminal device in raw mode, eight bits, no parity, one stop bit, no flow control."""

    def __init__(self, path: str, baud: int, heard: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Raises OSError, termios.error, InvalidConfig."""
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise InvalidConfig(f"{baud} is no speed of serial ports here", hint="115200 is usual")
        self._loop = asyncio.get_running_loop()
        self._heard, self._ended = heard, ended
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            tty.setraw(self._fd)
            settings = termios.tcgetattr(self._fd)
            settings[2] = (settings[2] | termios.CLOCAL | termios.CREAD) & ~(termios.CSTOPB | termios.CRTSCTS)
            settings[4] = settings[5] = speed
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)
            termios.tcflush(self._fd, termios.TCIOFLUSH)
        except BaseException:
            os.close(self._fd)
            raise
        self._waiting = bytearray()
        self._open = True
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:  # it was unplugged
            data = b""
        if data:
            self._heard(data)
        else:
            self.close()
            self._ended()

    def write(self, data: bytes) -> None:
        if not self._open or len(self._waiting) + len(data) > _WAITING:
            return  # as on a wire: it is lost, and said again
        self._waiting += data
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError: later; anything else: the reader finds out
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        if self._waiting:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
