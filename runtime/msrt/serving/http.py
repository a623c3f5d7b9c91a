"""uvicorn inside our own loop; `connection` has what we do to its connections, and nobody else knows of it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl

import uvicorn

from msrt.errors import InvalidAddress, InvalidConfig, PortInUse
from msrt.serving.app import App
from msrt.serving.connection import Connection

__all__ = ["HttpServer"]

BACKLOG = 2048


class HttpServer:
    """Serves an App at HOST:PORT until closed. Port 0 takes a free one. Beyond `connections` callers get 503.

    `tls`: speak it. `plain`: off loopback without it all the same, for a proxy speaks it.
    """

    def __init__(
        self, app: App, host: str, port: int, *, connections: int | None = None, idle_s: float = 75.0,
        tls: ssl.SSLContext | None = None, plain: bool = False,
    ) -> None:  # fmt: skip
        self._app, self._connections, self._idle_s = app, connections, idle_s
        self._tls, self._plain = tls, plain
        self._host, self._port = host, port
        self._server: uvicorn.Server | None = None
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Returns the real port. Raises PortInUse, InvalidAddress, and InvalidConfig when keys could be overheard."""
        if self._tls is None and not self._plain and not _loopback(self._host):
            raise InvalidConfig(f"HTTP on {self._host} without TLS", hint="set tls_cert, or listen on 127.0.0.1")
        listener = self._bind()
        port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=max(1, round(self._idle_s)),
            limit_concurrency=self._connections,
            timeout_graceful_shutdown=2,
        )
        # What uvicorn.Server.serve() does, without its signal handlers: signals are the process's own.
        config.load()
        config.ssl = self._tls
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._server, self._listener = server, listener
        self._task = asyncio.get_running_loop().create_task(server.main_loop())
        return port

    async def close(self) -> None:
        """Take no more, finish what is in flight within two seconds, close."""
        if self._server is None or self._task is None or self._listener is None:
            return
        server, self._server = self._server, None
        self._app.stop()
        server.should_exit = True
        await self._task
        await server.shutdown(sockets=[self._listener])

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen(BACKLOG)
        except socket.gaierror as error:
            listener.close()
            raise InvalidAddress(f"{self._host!r} is no address of this machine: {error.strerror}") from None
        except OSError as error:
            listener.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortInUse(f"cannot listen on {self._host}:{self._port}: {error.strerror}") from None
            raise InvalidAddress(f"{self._host!r} is no address of this machine: {error.strerror}") from None
        return listener


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
