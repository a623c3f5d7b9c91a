"""Connections to one HTTP server, kept open and used again: callbacks, no task per request."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast
from urllib.parse import urlsplit

from msrt import errors
from msrt.buffers import Buffer
from msrt.client.http_wire import Reader, Response

__all__ = ["Exchange", "Pool"]

CONNECTIONS: Final = 64
IDLE_S: Final = 30.0
"""An older idle connection is not used again: the server may be closing it right now."""
CONNECT_S: Final = 3.0
CLOSE_S: Final = 1.0


class Exchange:
    """One request and who is told of its end: `answered` or `lost`, once, unless it was left. `again`: it may be sent a
    second time, where a connection that was kept open turns out to be closed."""

    __slots__ = ("again", "answered", "connection", "left", "lost", "parts")

    def __init__(
        self, parts: Sequence[Buffer], answered: Callable[[Response], None], lost: Callable[[errors.MsrtError], None],
        *, again: bool = True,
    ) -> None:  # fmt: skip
        self.again = again
        self.parts, self.answered, self.lost = parts, answered, lost
        self.connection: _Connection | None = None
        self.left = False

    def leave(self) -> None:
        """Nobody waits any more; the server sees that by the end of the connection."""
        self.left = True
        if self.connection is not None:
            self.connection.close()


class Pool:
    """At most CONNECTIONS at a time; more requests wait for one."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc.rpartition("@")[2]
        self._address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        self._url, self._context = url, context
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._alive = 0
        """Connections of which the loop has not said yet that they are over."""
        self._over = asyncio.Event()

    def ask(self, exchange: Exchange) -> None:
        """Send it as soon as a connection is free."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.since < IDLE_S:
                connection.ask(exchange)
                return
            connection.close()
        self._waiting.append(exchange)
        if len(self._all) + len(self._opening) < CONNECTIONS:
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        host, port = self._address
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), host, port, ssl=self._context
                )
        except (OSError, TimeoutError) as error:
            self._failed(_unreachable(self._url, error))
            return
        self._all.add(connection)
        self.free(connection)

    def _failed(self, error: errors.MsrtError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            if not exchange.left:
                exchange.lost(error)

    def free(self, connection: _Connection) -> None:
        """It can take another one."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.left:
                connection.ask(exchange)
                return
        connection.since = self._loop.time()
        self._idle.append(connection)

    def gone(self, connection: _Connection) -> None:
        """It is closed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and len(self._all) + len(self._opening) < CONNECTIONS:
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def made(self) -> None:
        self._alive += 1

    def lost(self) -> None:
        self._alive -= 1
        if not self._alive:
            self._over.set()

    async def close(self) -> None:
        """Close all, and see them closed; nobody is told."""
        self._waiting.clear()
        if self._opening:
            for task in self._opening:
                task.cancel()
            await asyncio.wait(self._opening)
        for connection in list(self._all):
            if connection.exchange is not None:
                connection.exchange.left = True
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._alive:
                    self._over.clear()
                    await self._over.wait()


class _Connection(asyncio.BufferedProtocol):
    """One request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._reader = pool, Reader()
        self._transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.since = 0.0
        self._fresh = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._pool.made()

    def ask(self, exchange: Exchange) -> None:
        assert self._transport is not None
        self.exchange, exchange.connection = exchange, self
        parts = exchange.parts
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def get_buffer(self, _hint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, count: int) -> None:
        try:
            response = self._reader.filled(count)
        except errors.MsrtError as error:
            self._lose(error)
            return
        if response is not None:
            self._answered(response)

    def _answered(self, response: Response) -> None:
        exchange, self.exchange, self._fresh = self.exchange, None, False
        if exchange is None or not response.stays:  # an answer that nobody asked for spoils the order of the next ones
            self.close()
        else:
            exchange.connection = None
            self._pool.free(self)
        if exchange is not None and not exchange.left:
            exchange.answered(response)

    def _lose(self, error: errors.MsrtError) -> None:
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is None or exchange.left:
            return
        if exchange.again and not self._fresh and not self._reader.begun:
            exchange.again, exchange.connection = False, None
            self._pool.ask(exchange)
        else:
            exchange.lost(error)

    def eof_received(self) -> bool:
        try:
            response = self._reader.ended()
        except errors.MsrtError as error:
            self._lose(errors.Disconnected(error.text))
        else:
            if response is not None:
                response.headers[b"connection"] = b"close"
                self._answered(response)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost()
        self._lose(
            errors.Disconnected(f"the connection to {self._pool.host} was closed{f': {error}' if error else ''}")
        )

    def close(self) -> None:
        self._pool.gone(self)
        if self._transport is not None:
            self._transport.abort()


def _unreachable(url: str, error: BaseException) -> errors.MsrtError:
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "name its fingerprint, or the ca that vouches for it"
        return errors.WrongServerKey(f"nobody vouches for {url}", hint=hint)
    why = f": {error}" if str(error) else ""
    return errors.Disconnected(f"{url} cannot be reached{why}", hint="is it running?")
