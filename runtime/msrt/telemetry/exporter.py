"""`GET /metrics` for a node that has no HTTP front (a device): a page of HTTP, not a server's worth of memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from typing import Final

from msrt.errors import LocalError, PortInUse
from msrt.telemetry.metrics import CONTENT_TYPE

__all__ = ["serve_metrics"]

REQUEST_S: Final = 5.0
CONNECTIONS: Final = 16


async def serve_metrics(render: Callable[[], bytes], host: str, port: int) -> asyncio.Server:
    """Listen until closed; the real port is at `server.sockets[0].getsockname()[1]`. Raises PortInUse, LocalError."""
    gate = asyncio.Semaphore(CONNECTIONS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            if not gate.locked():
                async with gate, asyncio.timeout(REQUEST_S):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_response(request, render))
                    await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(answer, host, port, limit=16 << 10)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{host}:{port} is in use", hint="name another with --metrics (port 0: a free one)"
            ) from error
        raise LocalError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _response(request: bytes, render: Callable[[], bytes]) -> bytes:
    method, _, rest = request.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in {b"GET", b"HEAD"}:
        status, body = "405 Method Not Allowed", b"only GET\n"
    elif path != b"/metrics":
        status, body = "404 Not Found", b"only /metrics is here\n"
    else:
        status, body = "200 OK", render()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
