"""Edges that are away, full, silent or gone while they are asked over HTTP, and callers that leave."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re

import pytest

from msrt import errors
from msrt.client import AsyncClient
from msrt.serving.access import Access
from msrt.trust.api_keys import KeyBook, make_key
from tests.runtime.client.fronts import ROWS, Fronts, play
from tests.runtime.hop.tree import until


def test_a_dead_edge_is_passed_by():
    """The other edge answers everything, from the moment that the first one is gone."""

    async def scenario(fronts, client):
        await client.infer("digits", {"x": ROWS})
        first = 0 if fronts.masters[0].asked else 1
        await fronts.servers[first].close()
        for _ in range(20):
            await client.infer("digits", {"x": ROWS})
        assert len(fronts.masters[1 - first].asked) >= 20

    play(scenario, count=2)


def test_a_full_edge_is_passed_by():
    """503 with Retry-After: the other one is asked at once."""

    async def scenario(fronts, client):
        fronts.masters[0].error = errors.Overloaded("full")
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            await client.infer("digits", {"x": ROWS})
        assert asyncio.get_running_loop().time() - began < 2

    play(scenario, count=2)


def test_nobody_there_is_disconnected_in_time():
    """A closed port fails by the deadline, as what it is: the error says which edge, and why."""

    async def main():
        async with AsyncClient(["http://127.0.0.1:9"]) as client:
            with pytest.raises(errors.Disconnected, match=r"deadline: http://127\.0\.0\.1:9 cannot be reached"):
                await client.infer("digits", {"x": ROWS}, deadline=0.5)
            with pytest.raises(errors.Disconnected, match=r"http://127\.0\.0\.1:9 cannot be reached"):
                await client.metadata("digits", deadline=0.1)

    asyncio.run(main())


def test_an_api_key_is_shown():
    """With the key it works, with another one it is Unauthorized at once."""

    async def good(_fronts, client):
        await client.infer("digits", {"x": ROWS})

    async def bad(_fronts, client):
        with pytest.raises(errors.Unauthorized):
            await client.infer("digits", {"x": ROWS})

    text, key = make_key("app", "client", random.randbytes)
    access = Access(lambda: KeyBook([key]), trusts_loopback=False)
    play(good, config={"access": access}, key=text)
    play(bad, config={"access": access}, key=text[:-1] + "x")


def test_a_silent_server_costs_a_moment():
    """It takes requests and says nothing at all: another edge is asked long before the deadline."""

    async def main():
        async with Fronts(1) as fronts:
            mute = Mute()
            url = await mute.start()
            async with AsyncClient([url, *fronts.urls]) as client:
                await until(lambda: all(front.live for front in client._core.fronts))
                client._core.current = client._core.fronts[0]
                began = asyncio.get_running_loop().time()
                mute.silent = True
                answer = await client.infer("digits", {"x": ROWS}, deadline=30.0)
                assert answer.device == "cam-1"
                assert asyncio.get_running_loop().time() - began < 5
            await mute.close()

    asyncio.run(main())


def test_a_connection_that_the_server_closed_costs_nothing():
    """One that was kept open and is closed by the server as we use it: the request goes over another one."""

    async def main():
        mute = Mute(hangs_up_after=3)
        url = await mute.start()
        async with AsyncClient([url]) as client:
            await until(lambda: client._core.fronts[0].live)
            for _ in range(5):
                assert (await client.infer("digits", {"x": ROWS})).device == "mute"
            assert client._core.fronts[0].live
        await mute.close()

    asyncio.run(main())


def test_a_caller_that_leaves_ends_its_connection():
    """That is how a server hears of it."""

    async def main():
        mute = Mute()
        url = await mute.start()
        async with AsyncClient([url]) as client:
            await until(lambda: client._core.fronts[0].live)
            mute.silent = True
            task = asyncio.get_running_loop().create_task(client.infer("digits", {"x": ROWS}))
            await until(lambda: mute.swallowed)
            task.cancel()
            await until(lambda: mute.ended)
            assert client._core.waiting == 0
        await mute.close()

    asyncio.run(main())


def test_an_edge_may_be_below_a_path():
    """As a proxy offers it: everything is asked there."""

    async def main():
        mute = Mute()
        url = await mute.start()
        async with AsyncClient([f"{url}/north/"]) as client:
            assert (await client.infer("digits", {"x": ROWS})).device == "mute"
        await mute.close()
        assert mute.paths >= {b"/north/v2/health/live", b"/north/v2/models/digits/infer"}
        assert all(path.startswith(b"/north/") for path in mute.paths)

    asyncio.run(main())


class Mute:
    """A server that answers everything alike, hangs up after so many answers on one connection, or falls silent."""

    ANSWER = json.dumps(
        {"model_name": "digits", "model_version": "1", "parameters": {"device": "mute"}, "outputs": []}
    ).encode()  # fmt: skip

    def __init__(self, hangs_up_after=1 << 30):
        self.silent, self.hangs_up_after = False, hangs_up_after
        self.swallowed = self.ended = 0
        self.paths = set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def close(self):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        try:
            for number in itertools.count(1):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                self.paths.add(head.split(b" ")[1])
                found = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(found[1]) if found else 0)
                if self.silent:
                    self.swallowed += 1
                    await reader.read()
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self.ANSWER), self.ANSWER))
                if number == self.hangs_up_after:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.ended += self.silent
            writer.close()


def test_a_server_hears_of_a_caller_that_left():
    """What it still works at for that caller is cancelled, and the connections of others stay."""

    async def scenario(fronts, client):
        master = fronts.masters[0]
        seen = []

        async def wait(request):
            master.asked.append(request)
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                seen.append(request)
                raise

        master.infer = wait
        tasks = [asyncio.get_running_loop().create_task(client.infer("digits", {"x": ROWS})) for _ in range(3)]
        await until(lambda: len(master.asked) == 3)
        tasks[0].cancel()
        await until(lambda: len(seen) == 1)
        await asyncio.sleep(0.05)
        assert len(seen) == 1
        assert fronts.servers[0]._app.in_flight == 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await until(lambda: not fronts.servers[0]._app.in_flight)

    play(scenario)
