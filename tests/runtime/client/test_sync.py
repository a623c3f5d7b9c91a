"""The client without an event loop of its own, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import threading

import numpy as np
import pytest

import msrt
from msrt import errors
from msrt.client.known import Known
from msrt.client.request import Answer, tensors_of
from msrt.client.waiters import Blocked
from msrt.joining import new_member
from msrt.links.link import Credentials
from msrt.protocol.messages import Parent
from msrt.trust.identity import Identity
from msrt.trust.private import write_private
from msrt.world.field import field_world
from tests.bench.tree import until
from tests.runtime.client.edges import EdgeHandler, member, rows
from tests.runtime.client.fronts import ROWS, Fronts
from tests.runtime.hop.tree import ParentNode, identity


class Behind:
    """An event loop in a thread, for what answers."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


class TcpEdge(ParentNode):
    """The doubling edge on ZeroMQ."""

    def __init__(self, path):
        super().__init__(field_world(path), ("edge", ()))
        self.handler = self.down._handler = EdgeHandler(self.world, "edge", ())
        self.handler.called = self.called
        self.gate.offered = ()

    async def called(self, _peer, method, _params):
        if method == "edges":
            return []
        raise errors.NotFound(method)

    async def start(self):
        link = self.world.links.listen(
            "tcp://127.0.0.1:0", Credentials(secret_key=self.identity.link_secret), lambda _key: True
        )
        await self.down.listen(link)
        return link.address


def logged_in(path, url):
    """A state directory that `msrt login` could have made, which knows the edge."""
    one = identity("app")
    path.mkdir(mode=0o700)
    one.save(path / "identity.json")
    world, found = new_member(path)
    assert isinstance(found, Identity)
    _, _, membership = member(world)
    store = world.disk.store("node")
    membership.save_now(store)
    edge = identity("edge")
    known = Known([], (world, one, membership))
    known.learn([Parent(edge.node, edge.link_public, zmq=url)])
    asyncio.run(known.save())


def test_zeromq_end_to_end(tmp_path):
    """connect, infer, infer_many and submit against an edge on a real socket; closed, it says so."""
    with Behind() as behind:
        edge = TcpEdge(tmp_path / "edge")
        url = behind.run(edge.start())
        logged_in(tmp_path / "app", url)
        with msrt.connect([url], state=tmp_path / "app") as client:
            assert client.infer("double", {"x": rows(4)})["y"][0, 0] == 8
            answers = client.infer_many("double", [{"x": rows(n)} for n in range(3000)])
            assert [answer["y"][0, 1] for answer in answers] == [2 * n for n in range(3000)]
            futures = [client.submit("double", {"x": rows(n)}) for n in range(20)]
            assert [future.result(5)["y"][0, 0] for future in futures] == [2 * n for n in range(20)]
            assert [found.zmq for found in client.edges] == [url]
        with pytest.raises(errors.Disconnected, match="closed"):
            client.infer("double", {"x": rows(1)})
        behind.run(edge.down.close())


def test_streams_and_sequences_without_an_event_loop(tmp_path):
    """A stream whose inputs come from a generator in another thread, left early; a sequence; classes of a row."""
    with Behind() as behind:
        edge = TcpEdge(tmp_path / "edge")
        url = behind.run(edge.start())
        logged_in(tmp_path / "app", url)
        with msrt.connect([url], state=tmp_path / "app") as client:
            answers = client.stream("double", ({"x": rows(n)} for n in range(2000)))
            assert [answer["y"][0, 0] for answer in answers] == [2 * n for n in range(2000)]
            assert {a.index for a in client.stream("double", [{"x": rows(1)}] * 9, ordered=False)} == set(range(9))
            endless = client.stream("double", ({"x": rows(n)} for n in itertools.count()), window=5)
            assert [next(endless)["y"][0, 0] for _ in range(3)] == [0, 2, 4]
            endless.close()
            with client.sequence("double") as sequence:
                assert sequence.infer({"x": rows(3)})["y"][0, 0] == 6
            assert [message.sequence_end for message in edge.handler.messages[-2:]] == [False, True]
            until("the threads end", lambda: all(t.name != "msrt-stream" for t in threading.enumerate()))
        behind.run(edge.down.close())


def test_a_stream_raises_what_went_wrong_in_its_place(tmp_path):
    """An input that cannot be sent, a source that breaks: after the answers before it."""

    def source(last):
        yield {"x": rows(1)}
        yield {"x": rows(2)}
        yield last

    def broken():
        yield {"x": rows(1)}
        raise OSError("the sensor broke")

    with Behind() as behind:
        edge = TcpEdge(tmp_path / "edge")
        url = behind.run(edge.start())
        logged_in(tmp_path / "app", url)
        with msrt.connect([url], state=tmp_path / "app") as client:
            answers = client.stream("double", source({"x": np.zeros(2, complex)}))
            assert [next(answers)["y"][0, 0] for _ in range(2)] == [2, 4]
            with pytest.raises(errors.InvalidTensor, match="complex"):
                next(answers)
            answers = client.stream("double", broken())
            assert next(answers)["y"][0, 0] == 2
            with pytest.raises(OSError, match="sensor broke"):
                next(answers)
        behind.run(edge.down.close())


def test_large_answers_are_views_of_what_was_received(tmp_path):
    """Over ZeroMQ too: no byte of a large tensor is copied after libzmq has it, and one that may not change is lent."""
    seen = []
    with Behind() as behind:
        edge = TcpEdge(tmp_path / "edge")
        url = behind.run(edge.start())
        logged_in(tmp_path / "app", url)
        with msrt.connect([url], state=tmp_path / "app") as client:
            [front] = client._client._core.fronts
            heard = front.message
            front.message = lambda peer, message, frames: (seen.append(frames), heard(peer, message, frames))
            x = np.ones((50_000, 2), np.float32)
            assert np.shares_memory(np.frombuffer(tensors_of({"x": x})[1][0], np.uint8), x)
            answer = client.infer("double", {"x": x})
            assert np.shares_memory(answer["y"], np.frombuffer(seen[-1][0], np.uint8))
            assert answer["y"].sum() == 200_000
        behind.run(edge.down.close())


def test_http_from_many_threads():
    """One client, many threads: each gets its own answer."""
    with Behind() as behind:
        fronts = Fronts(1)
        behind.run(fronts.__aenter__())
        with msrt.connect(fronts.urls) as client:
            found = {}

            def ask(n):
                found[n] = client.infer("digits", {"x": ROWS * n})["y"]

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for n in range(8):
                np.testing.assert_array_equal(found[n], ROWS * n)
            client.close()
        behind.run(fronts.__aexit__())


def test_a_thread_is_woken_with_what_comes_first():
    """Once; what comes later is nobody's any more."""
    waiter, answer = Blocked(), Answer({}, 1, "", "")
    waiter.settled(0, answer)
    waiter.settled(0, errors.Disconnected("late"))
    assert waiter.wait(0.0) is answer


def test_a_thread_does_not_wait_for_ever():
    """Not even where a loop was closed with its question in it."""
    with pytest.raises(errors.DeadlineExceeded):
        Blocked().wait(0.0)


def test_a_deadline_holds_for_a_thread(tmp_path):
    """Of an edge that hears and says nothing."""
    with Behind() as behind:
        edge = TcpEdge(tmp_path / "edge")
        url = behind.run(edge.start())
        logged_in(tmp_path / "app", url)
        with msrt.connect([url], state=tmp_path / "app") as client:
            client.infer("double", {"x": rows(1)})
            edge.handler.message = lambda *_: None
            with pytest.raises(errors.DeadlineExceeded):
                client.infer("double", {"x": rows(1)}, deadline=0.1)
        behind.run(edge.down.close())


def test_no_identity_is_said_before_anything_starts(tmp_path):
    """A tcp:// address needs one; the error says how to get it, and no thread is left."""
    before = threading.active_count()
    with pytest.raises(errors.NotEnrolled, match="msrt login"):
        msrt.connect(["tcp://127.0.0.1:1"], state=tmp_path)
    assert threading.active_count() == before


def test_a_key_that_others_may_read_is_refused(tmp_path):
    """The identity's mode is checked when it is loaded."""
    write_private(tmp_path / "identity.json", identity("app").to_bytes())
    (tmp_path / "identity.json").chmod(0o644)
    with pytest.raises(errors.KeysExposed):
        msrt.connect([], state=tmp_path)
