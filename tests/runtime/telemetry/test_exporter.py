from __future__ import annotations

import asyncio
import contextlib

import pytest

from msrt.errors import LocalError, PortInUse
from msrt.telemetry import Metrics
from msrt.telemetry.exporter import serve_metrics


def asked(request, render=lambda: b"page\n"):
    async def main():
        server = await serve_metrics(render, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request)
            if writer.can_write_eof():
                writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    return asyncio.run(main())


def test_the_page_is_served():
    """Any Prometheus can read it."""
    head, _, body = asked(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Metrics().render).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"msrt_node_info" in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"\0\xff\r\n\r\n", b"405"),
    ],
)
def test_anything_else_is_refused(request_, status):
    """By its proper status."""
    assert asked(request_).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("request_", [b"", b"GET /metrics HTTP/1.1\r\n", b"x" * 100_000])
def test_half_or_endless_requests_get_nothing(request_):
    """The connection closes; the node does not care."""
    with contextlib.suppress(ConnectionError):
        assert asked(request_) == b""


def test_a_port_in_use_is_named():
    """The typed error says which, and what to do."""

    async def main():
        server = await serve_metrics(lambda: b"", "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(PortInUse, match=f":{port} is in use; .*--metrics"):
                await serve_metrics(lambda: b"", "127.0.0.1", port)
            with pytest.raises(LocalError):
                await serve_metrics(lambda: b"", "192.0.2.1", 0)

    asyncio.run(main())
