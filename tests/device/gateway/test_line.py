"""Lines to a board: a terminal device, and a TCP port."""

from __future__ import annotations

import asyncio
import os

import pytest

from msrt.errors import Disconnected, InvalidConfig
from msrt_device.gateway.line import open_line, parse_serial


class Heard:
    def __init__(self):
        self.data, self.over, self.more = bytearray(), asyncio.Event(), asyncio.Event()

    def take(self, data):
        self.data += data
        self.more.set()

    async def until(self, size):
        async with asyncio.timeout(5):
            while len(self.data) < size:
                await self.more.wait()
                self.more.clear()


def test_a_serial_port_carries_any_byte():
    """Raw, both ways, at the speed that was asked for; its end is noticed."""

    async def main():
        master, slave = os.openpty()
        heard = Heard()
        line = await open_line(f"{os.ttyname(slave)}@230400", "", heard.take, heard.over.set)
        every = bytes(range(256)) * 2
        os.write(master, every)
        await heard.until(len(every))
        assert heard.data == every
        line.write(every)
        await asyncio.sleep(0.05)
        assert os.read(master, 4096) == every
        os.close(slave)
        os.close(master)
        async with asyncio.timeout(5):
            await heard.over.wait()
        line.close()

    asyncio.run(main())


def test_a_tcp_port_carries_any_byte():
    """And its end is noticed."""

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readexactly(256))
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            heard = Heard()
            port = server.sockets[0].getsockname()[1]
            line = await open_line("", f"127.0.0.1:{port}", heard.take, heard.over.set)
            line.write(bytes(range(256)))
            async with asyncio.timeout(5):
                await heard.over.wait()
            assert heard.data == bytes(range(256))
            line.close()

    asyncio.run(main())


def test_what_is_not_there_is_said():
    """A port that is missing is tried again; one that is wrongly named is not."""

    async def opened(serial, tcp):
        await open_line(serial, tcp, bytes, asyncio.Event().set)

    with pytest.raises(Disconnected):
        asyncio.run(opened("/dev/does-not-exist", ""))
    with pytest.raises(Disconnected):
        asyncio.run(opened("/dev/null", ""))
    with pytest.raises(InvalidConfig):
        asyncio.run(opened("", ""))
    with pytest.raises(InvalidConfig, match="no speed"):
        parse_serial("/dev/ttyS0@fast")
    assert parse_serial("/dev/ttyS0") == ("/dev/ttyS0", 115200)
