"""Edges asked over HTTP: the real front on real sockets."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import sys

import numpy as np
import pytest

from msrt import errors
from msrt.client import AsyncClient
from msrt.inference.tensors import array_of, frame_of, spec_of
from msrt.protocol.messages import TensorSpec
from msrt.serving.access import Access
from msrt.serving.app import App, AppConfig
from msrt.serving.backend import ModelInfo
from msrt.serving.http import HttpServer
from msrt.trust.api_keys import KeyBook, make_key
from tests.runtime.client import edges
from tests.runtime.hop.tree import until
from tests.runtime.serving.caller import Master, event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ALL_ERRORS = sorted(
    {kind for kind in errors._by_code.values() if kind.__module__ == "msrt.errors"}, key=lambda kind: kind.code
)


def made(kind):
    """An error of that kind, with a sentence and its usual hint."""
    own = {errors.FrameTooLarge: (7, 5), errors.TrustExpired: ("timestamp", 5.0)}
    return kind(*own.get(kind, ("it did not work",)))


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


def play(scenario, count=1, config=None, *, json=False, **options):
    """Run `scenario(fronts, client)`. json: as if the servers had no binary tensors."""

    async def main():
        async with Fronts(count, **(config or {})) as fronts, AsyncClient(fronts.urls, **options) as client:
            await until(lambda: all(front.live for front in client._core.fronts))
            for front in client._core.fronts:
                front._binary = front._binary and not json
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


@pytest.mark.parametrize("json", [False, True], ids=["binary", "json"])
def test_bfloat16_survives(json):
    """There and back in both ways; lists become it where the model takes it."""
    array = np.array([[1.5, -2.0, 0.0]], pytest.importorskip("ml_dtypes").bfloat16)

    async def scenario(fronts, client):
        answer = await client.infer("digits", {"x": array})
        assert answer["y"].dtype == array.dtype
        np.testing.assert_array_equal(answer["y"], array)
        master = fronts.masters[0]
        info = ModelInfo("digits", (1,), (TensorSpec("x", "BF16", (-1, 3)),), (TensorSpec("y", "BF16", (-1, 3)),))
        master.metadata = lambda _model, _version=0: info
        answer = await client.infer("digits", [[1.5, -2.0, 0.0]])
        np.testing.assert_array_equal(answer["y"], array)
        assert master.asked[-1].inputs[0].dtype == "BF16"

    play(scenario, json=json)


@pytest.mark.parametrize(
    "array",
    [np.array([[True, False]]), np.array([[1, -2]], np.int8), np.array([["a", "ü"]], object),
     np.array([[0.5]], np.float16), np.array([[1 << 60]], np.int64), np.zeros((0, 3), np.float32),
     np.arange(12, dtype=">f4").reshape(3, 4), np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
     np.asfortranarray(np.arange(6.0).reshape(2, 3))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("json", [False, True], ids=["binary", "json"])
def test_every_kind_of_array_survives(array, json):
    """There and back, the same: also of another byte order, with gaps, and column by column; in both ways to say it."""

    async def scenario(_fronts, client):
        answer = await client.infer("digits", {"x": array})
        np.testing.assert_array_equal(answer["y"], array)
        assert answer["y"].shape == array.shape
        assert array.dtype == object or not answer["y"].flags.writeable

    play(scenario, json=json)


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

    play(scenario, json=True)


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


def test_tensors_are_not_copied():
    """A large array goes out as it lies in memory, and comes in as a view of what was received, aligned."""
    rows = np.arange(1 << 18, dtype=np.float32).reshape(1, -1)
    sent, received = [], []

    async def scenario(_fronts, client):
        [front] = client._core.fronts
        pool, parts, answered = front._pool, front._parts, front._answered
        front._parts = lambda *of: sent.append(parts(*of)) or sent[-1]
        front._answered = lambda ident, response: (received.append(response.body), answered(ident, response))
        answer = await client.infer("digits", {"x": rows})
        assert any(np.shares_memory(np.frombuffer(part, np.uint8), rows) for part in sent[0])
        assert np.shares_memory(np.frombuffer(received[0], np.uint8), answer["y"])
        assert answer["y"].flags.aligned
        np.testing.assert_array_equal(answer["y"], rows)
        assert pool is front._pool

    play(scenario)


def test_bfloat16_needs_its_package():
    """With it arrays are what they were; without, the error names it."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([[1.5, -2.0]], bfloat16)
    spec = spec_of("x", array)
    assert spec.dtype == "BF16"
    np.testing.assert_array_equal(array_of(spec, frame_of(array)), array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ml_dtypes", None)
        with pytest.raises(errors.InvalidTensor, match="pip install ml_dtypes"):
            array_of(spec, frame_of(array))


def test_what_the_caller_asks_for_is_said():
    """Priority, wanted outputs, version and trace are in the request; the edge's marks are in the answer."""

    async def scenario(fronts, client):
        master = fronts.masters[0]
        master.marks = {"answered_by": "cloud"}
        answer = await client.infer("digits", {"x": ROWS}, priority=1, outputs=["y"], version=3, trace=TRACE)
        await client.infer("digits", {"x": ROWS}, priority=-1)
        first, second = master.asked
        assert (first.priority, first.outputs, first.version, first.trace) == (1, ("y",), 3, TRACE)
        assert (second.priority, second.outputs, second.version, second.trace) == (-1, (), 0, "")
        assert answer.marks == {"answered_by": "cloud"}
        assert 0 < answer.seconds < 5
        assert answer.request_id

    play(scenario)


def test_a_sequence_says_where_it_begins_and_ends():
    """The same id in each step, the marks of the first and the last one."""

    async def scenario(fronts, client):
        async with client.sequence("digits") as sequence:
            await sequence.infer({"x": ROWS})
            await sequence.infer({"x": ROWS * 2})
        asked = fronts.masters[0].asked
        assert {one.sequence for one in asked} == {sequence.id}
        assert [(one.sequence_start, one.sequence_end) for one in asked] == [
            (True, False),
            (False, False),
            (False, True),
        ]

    play(scenario)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.code)
def test_every_error_is_itself_on_both_links(kind):
    """What an edge raises is raised here: of the same type with the same sentence, over HTTP and over ZeroMQ."""
    error = made(kind)

    async def over_http(fronts, client):
        fronts.masters[0].error = error
        with pytest.raises(kind) as raised:
            await client.infer("digits", {"x": ROWS}, deadline=0.3)
        assert type(raised.value) is kind
        assert str(raised.value) == str(error)

    async def over_zeromq(stage, client):
        stage["a"].trouble = lambda _message: error
        with pytest.raises(kind) as raised:
            await client.infer("double", {"x": np.ones((1, 2), np.float32)}, deadline=0.3)
        assert type(raised.value) is kind
        assert str(raised.value) == str(error)

    play(over_http)
    edges.play(over_zeromq, edges=("a",))


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
