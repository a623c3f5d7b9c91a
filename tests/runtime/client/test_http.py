"""Edges asked over HTTP: the real front on real sockets."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from msrt import errors
from msrt.client import AsyncClient
from msrt.serving import App, AppConfig
from msrt.serving.access import Access
from msrt.serving.http import HttpServer
from msrt.trust.api_keys import KeyBook, make_key
from tests.runtime.hop.tree import until
from tests.runtime.serving.caller import Master, event

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Fronts:
    """So many servers, each with a master behind it."""

    def __init__(self, count, access=None, **config):
        self.masters = [Master() for _ in range(count)]
        for master in self.masters:
            master.edges = list
        self.servers = [
            HttpServer(App(master, AppConfig(**config), access=access), "127.0.0.1", 0) for master in self.masters
        ]

    async def __aenter__(self):
        self.urls = [f"http://127.0.0.1:{await server.start()}" for server in self.servers]
        return self

    async def __aexit__(self, *_):
        for server in self.servers:
            await server.close()


def play(scenario, count=1, config=None, **options):
    async def main():
        async with Fronts(count, **(config or {})) as fronts, AsyncClient(fronts.urls, **options) as client:
            await asyncio.wait_for(scenario(fronts, client), 20)

    asyncio.run(main())


def test_an_answer_over_http():
    """Arrays go and come; version, variant and device are named; the version asked for is in the path."""

    async def scenario(fronts, client):
        answer = await client.infer("digits@3", {"x": ROWS})
        np.testing.assert_array_equal(answer["y"], ROWS)
        assert answer["y"].dtype == np.float32
        assert (answer.version, answer.variant, answer.device) == (3, "int8", "cam-1")
        [asked] = fronts.masters[0].asked
        assert (asked.version, asked.inputs[0].shape) == (3, (2, 3))
        assert 5 < asked.timeout_s <= 10

    play(scenario)


@pytest.mark.parametrize(
    "array",
    [np.array([[True, False]]), np.array([[1, -2]], np.int8), np.array([["a", "ü"]], object),
     np.array([[0.5]], np.float16), np.array([[1 << 60]], np.int64), np.zeros((0, 3), np.float32)],
    ids=str,
)  # fmt: skip
def test_every_kind_of_array_survives(array):
    """There and back, the same."""

    async def scenario(_fronts, client):
        answer = await client.infer("digits", {"x": array})
        np.testing.assert_array_equal(answer["y"], array)
        assert answer["y"].shape == array.shape

    play(scenario)


def test_lists_are_made_what_the_model_takes():
    """The model's metadata is asked once."""

    async def scenario(fronts, client):
        await client.infer("digits", [[1] * 64])
        await client.infer("digits", [[2] * 64])
        assert [asked.inputs[0].dtype for asked in fronts.masters[0].asked] == ["FP32", "FP32"]
        assert (await client.metadata("digits")).versions == (1, 3)

    play(scenario)


@pytest.mark.parametrize(
    "error",
    [errors.InvalidTensor("x is wrong"), errors.NotFound("no such model"), errors.DeadlineExceeded("too late")],
)
def test_errors_are_themselves_again(error):
    """What the edge says no to is raised as the same type with the same text, after one request."""

    async def scenario(fronts, client):
        fronts.masters[0].error = error
        with pytest.raises(type(error), match=error.text):
            await client.infer("digits", {"x": ROWS})
        assert len(fronts.masters[0].asked) == 1

    play(scenario)


def test_what_json_cannot_say_is_said():
    """NaN is refused here, before it is sent."""

    async def scenario(_fronts, client):
        with pytest.raises(errors.InvalidTensor, match="NaN"):
            await client.infer("digits", {"x": np.array([[np.nan]])})

    play(scenario)


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
    """A closed port fails by the deadline, as what it is."""

    async def main():
        async with AsyncClient(["http://127.0.0.1:9"]) as client:
            with pytest.raises(errors.Disconnected):
                await client.infer("digits", {"x": ROWS}, deadline=0.5)

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


def test_events_of_all_edges_come_once():
    """Two edges, one of which tells of an event that the other told of too."""

    async def scenario(fronts, client):
        seen = []

        async def follow():
            async for one in client.events(model="digits"):
                seen.append(one.seq)
                if len(seen) == 4:
                    return

        task = asyncio.get_running_loop().create_task(follow())
        await until(lambda: all(master.followers for master in fronts.masters))
        for seq, master in ((1, 0), (2, 1), (2, 0), (3, 0), (4, 1)):
            fronts.masters[master].queue.put_nowait(event(seq))
        fronts.masters[0].queue.put_nowait(event(9, model="other"))
        await task
        assert sorted(seen) == [1, 2, 3, 4]

    play(scenario, count=2)


def test_events_go_on_after_an_edge_came_back():
    """The end of a stream is not the end of the events."""

    async def scenario(fronts, client):
        events = client.events()
        master = fronts.masters[0]
        first = asyncio.get_running_loop().create_task(anext(events))
        master.queue.put_nowait(event(1))
        assert (await first).seq == 1
        master.queue.put_nowait(None)
        second = asyncio.get_running_loop().create_task(anext(events))
        master.queue.put_nowait(event(2))
        assert (await second).seq == 2
        await events.aclose()

    play(scenario)
