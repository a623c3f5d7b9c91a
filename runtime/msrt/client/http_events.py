"""The lines of a stream that a server keeps open: one connection, read as fast as its reader takes them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from urllib.parse import urlsplit

from msrt import errors
from msrt.client.http_body import error_of
from msrt.client.http_wire import Reader, request_head

__all__ = ["lines_of"]

CONNECT_S: Final = 5.0
SILENCE_S: Final = 60.0
LINE_LIMIT: Final = 1 << 20
PIECE: Final = 64 << 10


async def lines_of(
    url: str, path: str, headers: Mapping[str, str], context: ssl.SSLContext | None
) -> AsyncGenerator[bytes, None]:
    """Lines without their ends; longer ones than LINE_LIMIT are left out. Raises what the server says, Disconnected at
    the end."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context, limit=PIECE)
    except (OSError, TimeoutError) as error:
        raise errors.Disconnected(f"{url} cannot be reached: {error}", hint="is it running?") from error
    try:
        writer.write(request_head("GET", path, parts.netloc, headers))
        async for line in _lines(url, reader):
            yield line
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _lines(url: str, stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    found = bytearray()
    reader = Reader(found.extend)
    too_long = False
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                data = await stream.read(PIECE)
        except (OSError, TimeoutError) as error:
            raise errors.Disconnected(f"the events of {url} ended: {error}") from error
        response = reader.response
        if not data:
            reader.ended()
            raise errors.Disconnected(f"the events of {url} ended")
        view = reader.buffer()
        view[: len(data)] = data
        whole = reader.filled(len(data))
        response = reader.response or whole
        if response is not None and response.status >= 300:
            if whole is None:
                continue
            raise error_of(response.status, bytes(found), response.headers.get(b"msrt-error", b""), b"")
        *lines, rest = bytes(found).split(b"\n")
        found[:] = rest
        for line in lines:
            if not too_long and len(line) < LINE_LIMIT:
                yield line.rstrip(b"\r")
            too_long = False
        if len(rest) > LINE_LIMIT:
            found.clear()
            too_long = True
        if whole is not None:
            raise errors.Disconnected(f"the events of {url} ended")
