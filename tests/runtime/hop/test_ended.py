"""Of a stream that is over nothing stays but its last word."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from msrt.hop.ended import LINGER_S
from msrt.hop.halves import Incoming, Outgoing
from msrt.protocol.messages import StreamDone, StreamEnd
from tests.runtime.hop.tree import blob, simulate, until

EIGHT = 8 << 20


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_ended_stream_lets_go_of_its_source(cancelled):
    """It answers for a while yet, but nothing that it sent stays in memory for that, nor on the disk once deleted."""

    class Source:
        async def read(self, offset, size):
            return data[offset : offset + size]

    data, digest = blob(EIGHT)

    async def scenario(tree):
        source = Source()
        gone = weakref.ref(source)
        push = tree.c.up.peer.push("update", {}, source.read, size=EIGHT, digest=digest)
        task = asyncio.get_running_loop().create_task(push)
        del source, push
        if cancelled:
            await until(lambda: tree.p.handler.sinks)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del task
        await asyncio.sleep(1)
        gc.collect()
        assert gone() is None
        assert not tree.c.up.peer.streams._out

    simulate(scenario)


def test_of_streams_that_are_over_their_last_words_stay_and_go():
    """Who did not hear the end is told again, and nothing else of a stream waits for that; in the end nothing does."""

    async def scenario(tree):
        down, up = tree.p.peer.streams, tree.c.up.peer.streams
        for number in range(100):
            data, digest = blob(100_000, number)
            await tree.c.up.peer.push("update", {}, data, size=len(data), digest=digest)
        await asyncio.sleep(0.1)
        gc.collect()
        halves = [one for one in gc.get_objects() if type(one) in {Incoming, Outgoing}]
        assert not [one for one in halves if one._peer in (tree.p.peer, tree.c.up.peer)]
        heard = []
        tree.c.up.peer.streams.received = lambda message, _frames: heard.append(message)
        down.received(StreamEnd(7, 100_000, digest), [])
        down.received(StreamEnd(700, 100_000, digest), [])
        await asyncio.sleep(0.1)
        assert heard[0] == StreamDone(7)
        assert heard[1].text == "there is no such stream"
        del tree.c.up.peer.streams.received
        await asyncio.sleep(LINGER_S)
        await tree.c.up.peer.push("update", {}, data, size=len(data), digest=digest)
        await asyncio.sleep(0.1)
        assert 7 not in down._came
        assert len(down._came._words) == len(up._sent._words) == 1

    simulate(scenario)
