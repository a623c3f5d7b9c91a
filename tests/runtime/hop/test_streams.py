"""Streams arrive whole or fail with a reason, on both sides."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import StreamCancel, StreamChunk, StreamCredit, StreamEnd
from msrt.protocol.stream import DEFAULT_WINDOW
from msrt.world.network import Faults
from tests.runtime.hop.tree import LEASE_S, Sink, blob, simulate, until

EIGHT = 8 << 20


def test_eight_mebibytes_each_way():
    """A child pushes up and a parent pushes down; both arrive whole and are known to."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        await asyncio.gather(
            tree.c.up.peer.push("update", {"n": 1}, data, size=EIGHT, digest=digest),
            tree.p.peer.push("artifact", {}, data, size=EIGHT, digest=digest),
        )
        for side in (tree.p, tree.c):
            [sink] = side.handler.sinks
            assert sink.whole
            assert sink.data == data

    simulate(scenario)


def test_a_stream_begins_with_the_chunks_that_the_last_one_ended_with():
    """On a quick link they have grown; on a link that is new, nobody knows it yet."""

    async def scenario(tree):
        data, digest = blob(EIGHT)

        async def first_chunk():
            await tree.c.up.peer.push("update", {}, data, size=EIGHT, digest=digest)
            return tree.p.handler.sinks[-1].pieces[0]

        unknown, known = await first_chunk(), await first_chunk()
        assert known > unknown
        peer = tree.c.up.peer
        tree.p.down.links[0].drop(tree.p.peer.route)
        await until(lambda: not peer.live)
        await until(lambda: tree.c.up.peer is not None and tree.c.up.peer.live)
        assert await first_chunk() == unknown

    simulate(scenario)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1024, 1 << 20, (1 << 20) + 1])
def test_sizes_at_the_edges_of_a_chunk(size):
    """Nothing, one byte, and sizes around a chunk."""

    async def scenario(tree):
        data, digest = blob(size)
        await tree.c.up.peer.push("update", {}, data, size=size, digest=digest)
        assert tree.p.handler.sinks[0].data == data

    simulate(scenario)


@pytest.mark.parametrize("have", [0, 1_000_000, 3_000_000])
def test_a_fetch_brings_the_answer_and_the_stream(have):
    """A call that answers with a stream; what is here already is not sent again."""

    async def scenario(tree):
        data, digest = blob(3_000_000)
        tree.p.handler.blobs[digest] = data
        sink = Sink(data[:have])
        sent = tree.p.peer.sent_bytes
        assert await tree.c.up.peer.fetch("get", {"digest": digest}, sink) == {"size": 3_000_000}
        assert sink.whole
        assert tree.p.peer.sent_bytes - sent < 3_000_000 - have + 60_000

    simulate(scenario)


def test_a_fetch_of_what_is_not_there_raises_what_the_parent_raised():
    """The error of the call is the error of the fetch."""

    async def scenario(tree):
        with pytest.raises(errors.MsrtError, match="KeyError"):
            await tree.c.up.peer.fetch("get", {"digest": "unknown"}, Sink())
        with pytest.raises(errors.MalformedFrame, match="without a stream"):
            await tree.c.up.peer.fetch("echo", {}, Sink())
        assert tree.c.up.peer.streams._fetches == {}

    simulate(scenario)


def test_a_fetch_may_take_longer_than_its_patience():
    """The timeout is one of silence: a slow transfer that goes on is left alone."""

    async def scenario(tree):
        data, digest = blob(4_000_000)
        tree.p.handler.blobs[digest] = data
        sink = Sink()
        await tree.c.up.peer.fetch("get", {"digest": digest}, sink, 3.0)
        assert sink.whole
        assert tree.sim.now > 9

    simulate(scenario, Faults(bandwidth=4e5, notice=1.0))


def test_a_fetch_gives_up_on_silence_and_tells_the_sender():
    """Nothing for the timeout is DeadlineExceeded, the sink is aborted."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        tree.p.handler.blobs[digest] = data
        sink = Sink()
        task = asyncio.get_running_loop().create_task(tree.c.up.peer.fetch("get", {"digest": digest}, sink, 2.0))
        await asyncio.sleep(0.01)
        tree.p.peer.streams.pump = lambda: None
        for out in tree.p.peer.streams._out.values():
            out._read = list
        with pytest.raises(errors.DeadlineExceeded, match="sent nothing of get"):
            await task
        assert sink.aborted
        await until(lambda: all(out.done.done() for out in tree.p.peer.streams._out.values()))

    simulate(scenario)


def test_a_cancelled_fetch_stops_the_sender():
    """Who no longer waits says so; the handler's push fails with StreamCancelled."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        tree.p.handler.blobs[digest] = data
        sink = Sink()
        task = asyncio.get_running_loop().create_task(tree.c.up.peer.fetch("get", {"digest": digest}, sink))
        await until(lambda: sink.data)
        task.cancel()
        await until(lambda: all(out.done.done() for out in tree.p.peer.streams._out.values()))
        assert isinstance(sink.aborted, errors.StreamCancelled)
        assert not sink.whole

    simulate(scenario)


def test_a_stream_goes_on_after_a_cut():
    """The connection breaks in the middle: the stream resumes where the receiver stands, and is not begun again."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        push = asyncio.get_running_loop().create_task(
            tree.c.up.peer.push("update", {}, data, size=EIGHT, digest=digest)
        )
        await until(lambda: tree.p.handler.sinks and len(tree.p.handler.sinks[0].data) > 2_000_000)
        tree.p.down.links[0].drop(tree.p.peer.route)
        await push
        [sink] = tree.p.handler.sinks
        assert sink.whole
        assert tree.c.up.peer.sent_bytes < EIGHT + (5 << 20)

    simulate(scenario)


def test_a_stream_survives_bad_weather():
    """Loss, doubling and overtaking cost time and nothing else."""

    async def scenario(tree):
        tree.sim.weather(Faults(loss=0.05, duplicate=0.05, reorder=0.05, jitter=0.005))
        data, digest = blob(EIGHT)
        await tree.c.up.peer.push("update", {}, data, size=EIGHT, digest=digest)
        assert tree.p.handler.sinks[0].data == data

    simulate(scenario)


def test_a_stream_to_a_peer_that_dies_fails():
    """When the session is void the push says Disconnected, within the lease."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        push = asyncio.get_running_loop().create_task(tree.p.peer.push("artifact", {}, data, size=EIGHT, digest=digest))
        await asyncio.sleep(0.02)
        tree.sim.crash("c")
        with pytest.raises(errors.Disconnected):
            await push
        assert tree.sim.now < LEASE_S + 2

    simulate(scenario, Faults(bandwidth=2e7, notice=1.0))


def test_a_sink_hears_that_its_sender_died():
    """The receiving side's sink is aborted when the session is void."""

    async def scenario(tree):
        data, digest = blob(EIGHT)
        tree.sim.spawn("c", tree.c.up.peer.push("update", {}, data, size=EIGHT, digest=digest))
        await until(lambda: tree.p.handler.sinks and tree.p.handler.sinks[0].data)
        tree.sim.crash("c")
        await until(lambda: tree.p.handler.sinks[0].aborted)
        assert not tree.p.handler.sinks[0].whole

    simulate(scenario, Faults(bandwidth=2e7, notice=1.0))


def test_a_stream_of_the_next_session_is_not_mistaken_for_an_old_one():
    """A restarted child numbers its streams anew; the leavings of its former life end none of them."""

    async def scenario(tree):
        data, digest = blob(100_000)
        await tree.c.up.peer.push("update", {}, data, size=len(data), digest=digest)
        tree.sim.crash("c")
        tree.sim.restart("c")
        await until(lambda: len(tree.p.handler.joins) == 2)
        await tree.joined()
        tree.p.handler.next_sink = slow = Sink()
        write = slow.write

        async def slowly(offset, piece):
            await asyncio.sleep(12.0)
            await write(offset, piece)

        slow.write = slowly
        big, digest = blob(4_500_000)
        await tree.c.up.peer.push("update", {}, big, size=len(big), digest=digest)
        assert slow.whole

    simulate(scenario)


def test_a_refused_stream_says_why():
    """The handler's refusal, a sink's disk, and a verdict on the whole reach the sender as themselves."""

    async def scenario(tree):
        data, digest = blob(300_000)
        peer = tree.c.up.peer
        with pytest.raises(errors.Forbidden, match="no such streams"):
            await peer.push("refused", {}, data, size=len(data), digest=digest)
        tree.p.handler.next_sink = Sink(fault=errors.DiskFull("no room"))
        with pytest.raises(errors.DiskFull, match="no room"):
            await peer.push("update", {}, data, size=len(data), digest=digest)
        with pytest.raises(errors.Corrupt):
            await peer.push("update", {}, data, size=len(data), digest=blob(5)[1])
        assert isinstance(tree.p.handler.sinks[-1].aborted, errors.Corrupt)
        assert await peer.call("echo", {}) == {}

    simulate(scenario)


def test_a_source_that_fails_ends_the_stream():
    """A reader's error is the push's error, and the receiver's sink hears it."""

    async def scenario(tree):
        async def reader(offset, size):
            if offset > 2_000_000:
                raise OSError("the disk is gone")
            return bytes(size)

        with pytest.raises(errors.LocalError, match="the disk is gone"):
            await tree.c.up.peer.push("update", {}, reader, size=EIGHT, digest="0" * 64)
        await until(lambda: tree.p.handler.sinks[0].aborted)

    simulate(scenario)


def test_what_is_of_no_stream_is_told_so():
    """Chunks, ends and credit for a stream that is not here are answered with a cancel, cancels with nothing."""

    async def scenario(tree):
        told = []
        peer = tree.c.up.peer
        received = peer.streams.received
        peer.streams.received = lambda message, frames: (told.append(message), received(message, frames))
        for message in (StreamChunk(9, 0), StreamEnd(9, 0, ""), StreamCredit(9, 0, 10), StreamCancel(9, True, "x")):
            peer.send(message, [b"x"] if isinstance(message, StreamChunk) else ())
        await asyncio.sleep(0.1)
        assert [(m.stream, m.from_sender) for m in told] == [(9, False), (9, False), (9, True)]

    simulate(scenario)


def test_empty_chunks_do_not_pile_up_before_a_slow_sink():
    """However many come, only so many wait."""

    async def scenario(tree):
        tree.p.handler.next_sink = slow = Sink()

        async def never(_offset, _data):
            await asyncio.sleep(20)

        slow.write = never
        data, digest = blob(2_000_000)
        tree.sim.spawn("c", tree.c.up.peer.push("update", {}, data, size=len(data), digest=digest))
        await until(lambda: tree.p.handler.sinks)
        await asyncio.sleep(0.2)
        for _ in range(5000):
            tree.c.up.peer.send(StreamChunk(1, 0), [b""])
        await asyncio.sleep(0.5)
        [incoming] = tree.p.peer.streams._in.values()
        assert len(incoming._inbox) <= 1024

    simulate(scenario)


def test_too_many_streams_at_once_are_refused():
    """The sixty-fifth is told Overloaded, the others go on."""

    async def scenario(tree):
        async def stuck(_offset, _size):
            await asyncio.sleep(5)
            return b"x"

        loop = asyncio.get_running_loop()
        digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        peer = tree.c.up.peer
        pushes = [loop.create_task(peer.push("update", {}, stuck, size=1, digest=digest)) for _ in range(64)]
        await asyncio.sleep(0.5)
        with pytest.raises(errors.Overloaded):
            await peer.push("update", {}, stuck, size=1, digest=digest)
        await asyncio.gather(*pushes)
        assert all(sink.whole for sink in tree.p.handler.sinks)

    simulate(scenario)


def test_a_message_waits_for_a_window_of_chunks_at_most():
    """While a stream fills a slow link, a call waits for what is on the wire already, and not for the whole stream."""

    async def scenario(tree):
        data, digest = blob(4 * EIGHT)
        push = asyncio.get_running_loop().create_task(
            tree.c.up.peer.push("update", {}, data, size=len(data), digest=digest)
        )
        await asyncio.sleep(0.2)
        began = tree.sim.now
        await tree.c.up.call("echo", {})
        assert tree.sim.now - began < DEFAULT_WINDOW / 4e6 + 0.1
        await push
        assert tree.sim.now - began > 7

    simulate(scenario, Faults(bandwidth=4e6, notice=1.0))
