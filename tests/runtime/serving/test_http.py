"""The front on a real socket: ports, keep-alive, HEAD, streams, closing."""

from __future__ import annotations

import asyncio
import json

import pytest

from msrt.errors import InvalidAddress, InvalidConfig, PortInUse
from msrt.serving.app import App, AppConfig
from msrt.serving.http import HttpServer
from tests.runtime.serving.caller import Master, event

INFER = json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}).encode()


async def ask(reader, writer, head, body=b""):
    """One request on an open connection: (status line, headers, body)."""
    writer.write(head.encode() + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(top.split("content-length: ")[1].split("\r\n")[0])
    return top, b"" if head.startswith("HEAD") else await reader.readexactly(length)


def serve(scenario, *, master=None, **config):
    """Run scenario(port, master) against a server, and close it."""

    async def main():
        behind = master or Master()
        server = HttpServer(App(behind, AppConfig(**config)), "127.0.0.1", 0)
        port = await server.start()
        try:
            return await asyncio.wait_for(scenario(port, behind), 10)
        finally:
            await asyncio.wait_for(server.close(), 5)

    return asyncio.run(main())


def test_requests_follow_each_other_on_one_connection():
    """Infer, an error, HEAD and GET: keep-alive holds through all of them."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            top, body = await ask(reader, writer, "POST /v2/models/digits/infer HTTP/1.1", INFER)
            assert "200 ok" in top
            assert json.loads(body)["outputs"][0]["data"] == [1, 2]
        assert "404" in (await ask(reader, writer, "GET /nothing HTTP/1.1"))[0]
        assert "200" in (await ask(reader, writer, "HEAD /v2/health/live HTTP/1.1"))[0]
        assert (await ask(reader, writer, "GET /metrics HTTP/1.1"))[1] == b"requests_total 1\n"
        writer.close()
        await writer.wait_closed()

    serve(scenario)


def test_a_body_that_is_too_large_does_not_wait_to_be_read():
    """413 comes on the announced length."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n{")
        assert b"413" in await reader.readuntil(b"\r\n")
        writer.close()
        await writer.wait_closed()

    serve(scenario)


async def lines(reader, count):
    """The next events of a stream; chunk headers and comments left out."""
    found = []
    while len(found) < count:
        line = (await reader.readuntil(b"\n")).strip()
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:])["seq"])
    return found


def test_events_stream_until_the_caller_leaves():
    """Each event comes as it happens, filtered; leaving ends the subscription behind."""

    async def scenario(port, master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /msrt/v1/events?model=digits&device=cam-1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        for one in (event(1), event(2, model="other"), event(3, name="cam-2"), event(4)):
            master.queue.put_nowait(one)
        assert await lines(reader, 2) == [1, 4]
        assert master.followers == 1
        writer.close()
        await writer.wait_closed()
        await master.unfollowed.wait()
        assert not master.followers

    serve(scenario)


def test_streams_are_bounded_and_kept_alive_and_end_with_the_server():
    """One more than allowed is 503; a quiet stream shows that it lives; close() does not wait for readers."""

    async def scenario(port, _master):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /msrt/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(3):
            await reader.readuntil(b": alive")
        other, second = await asyncio.open_connection("127.0.0.1", port)
        assert "503" in (await ask(other, second, "GET /msrt/v1/events HTTP/1.1"))[0]
        second.close()
        await second.wait_closed()
        return reader, writer

    async def main():
        server = HttpServer(App(Master(), AppConfig(max_streams=1, alive_s=0.01)), "127.0.0.1", 0)
        port = await server.start()
        reader, writer = await asyncio.wait_for(scenario(port, None), 10)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await server.close()
        assert loop.time() - before < 1.5
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())


def test_the_port_is_free_again_after_close_and_taken_before():
    """PortInUse names the address; closing gives the port back; a server may be closed twice."""

    async def main():
        one = HttpServer(App(Master()), "127.0.0.1", 0)
        port = await one.start()
        with pytest.raises(PortInUse, match=str(port)):
            await HttpServer(App(Master()), "127.0.0.1", port).start()
        await one.close()
        await one.close()
        two = HttpServer(App(Master()), "127.0.0.1", port)
        assert await two.start() == port
        await two.close()

    asyncio.run(main())


def test_nobody_is_served_off_loopback_in_the_clear():
    """0.0.0.0 needs TLS, or the word that a proxy does it; a name that means nothing is an address error."""

    async def main():
        for host in ("0.0.0.0", "", "::", "192.0.2.1"):
            with pytest.raises(InvalidConfig, match="without TLS"):
                await HttpServer(App(Master()), host, 0).start()
        for host in ("no such host", "192.0.2.1"):
            with pytest.raises(InvalidAddress):
                await HttpServer(App(Master()), host, 0, plain=True).start()
        server = HttpServer(App(Master()), "0.0.0.0", 0, plain=True)
        await server.start()
        await server.close()

    asyncio.run(main())


def test_garbage_on_the_socket_ends_that_connection_only():
    """What is not HTTP is answered with 400; the next caller is served."""

    async def scenario(port, _master):
        for junk in (b"\x00\xff\x16\x03garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(junk)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert "200" in (await ask(reader, writer, "GET /v2 HTTP/1.1"))[0]
        writer.close()
        await writer.wait_closed()

    serve(scenario)
