"""Artifacts between two nodes: the question, the stream, the healing on both sides."""

from __future__ import annotations

import asyncio

import pytest

from msrt.artifacts.transfer import fetch_from, receive, send, serve
from msrt.errors import CallerError, Corrupt, InvalidAddress, MalformedFrame, NotFound, StreamCancelled
from msrt.protocol.messages import StreamOpen
from msrt.world.memory import MemoryDisk
from tests.runtime.artifacts.rig import Parent, blob, digest_of, store


class Hop:
    """Parent and child in one place: what `Peer.fetch` and `Peer.push` do to a sink, without a wire."""

    def __init__(self, parent, fetch=None):
        self.parent, self.upstream = parent, fetch
        self.sink = None
        self.flips = 0
        self.opened = []

    async def wait(self, _timeout):
        return self

    async def fetch(self, _method, params, sink, _timeout):
        self.sink = sink
        return await serve(self.parent, self, {**params, "_call": 7}, self.upstream)

    async def push(self, kind, meta, source, *, size, digest, answers=0):
        self.opened.append(StreamOpen(1, kind, meta, size, digest, answers=answers))
        sink = self.sink or receive(self.child, self.opened[-1])
        try:
            at = sink.have
            while at < size:
                data = bytearray(await source(at, 1000) if callable(source) else source[at : at + 1000])
                if self.flips:
                    self.flips -= 1
                    data[0] ^= 1
                await sink.write(at, data)
                at += len(data)
            await sink.complete(size, digest)
        except Corrupt as error:
            raise StreamCancelled(error.text) from error


def test_a_child_fetches_from_its_parent():
    """Whole, verified, resumed where its partial copy ends."""

    async def main():
        above, below = store(), store()
        digest = await above.put_bytes(blob(1))
        below.blobs.write(digest, 0, blob(1)[:2000])
        hop = Hop(above)
        assert await below.get(digest, fetch_from(hop)) == blob(1)
        assert (hop.opened[0].kind, hop.opened[0].answers, hop.opened[0].size) == ("artifact", 7, 5000)

    asyncio.run(main())


def test_a_byte_flipped_in_flight_costs_one_more_try():
    """The parent's own copy is looked at, is sound, and stays."""

    async def main():
        above, below = store(), store()
        digest = await above.put_bytes(blob(1))
        hop = Hop(above)
        hop.flips = 1
        assert await below.get(digest, fetch_from(hop)) == blob(1)
        assert below.corrupt == 1
        assert above.corrupt == 0

    asyncio.run(main())


def test_a_parent_with_a_damaged_copy_heals_itself_from_above():
    """The middle floor's disk rots after it was first served: the child's doubt makes it look, and refetch."""
    disk = MemoryDisk()

    async def main():
        top, middle, below = store(), store(disk), store()
        digest = await top.put_bytes(blob(1))
        hop = Hop(middle, fetch_from(Hop(top)))
        await store().get(digest, fetch_from(hop))
        disk.blobs().flip(digest, 4321)
        assert await below.get(digest, fetch_from(hop)) == blob(1)
        assert middle.corrupt == 1
        assert await middle.read(digest) == blob(1)

    asyncio.run(main())


def test_the_top_says_what_it_does_not_have():
    """Without a parent of its own: NotFound, and Corrupt for its own damage."""
    disk = MemoryDisk()

    async def main():
        top, below = store(disk), store()
        with pytest.raises(NotFound):
            await below.get(digest_of(b"?"), fetch_from(Hop(top)))
        digest = await top.put_bytes(blob(1))
        disk.blobs().flip(digest, 0)
        with pytest.raises(Corrupt):
            await below.get(digest, fetch_from(Hop(top)))

    asyncio.run(main())


@pytest.mark.parametrize("params", [{}, {"digest": 5, "_call": 1}, {"digest": "../etc/passwd", "_call": 1}])
def test_a_bad_question_is_refused(params):
    """A digest is 64 hex digits and nothing else: it becomes a file name."""
    with pytest.raises((CallerError, InvalidAddress)):
        asyncio.run(serve(store(), None, params))


def test_an_unasked_artifact_is_taken_once():
    """A push of what is here already moves no bytes."""

    async def main():
        above, below = store(), store()
        digest = await below.put_bytes(blob(1))
        hop = Hop(None)
        hop.child = above
        await send(below, hop, digest)
        assert await above.read(digest) == blob(1)
        await send(below, hop, digest)
        assert receive(above, hop.opened[-1]).have == 5000

    asyncio.run(main())


def test_an_unasked_stream_must_say_what_it_is():
    """No digest, no size or another kind: refused before a byte comes."""
    for opened in (StreamOpen(1, "artifact"), StreamOpen(1, "update", size=1, digest="a" * 64)):
        with pytest.raises(MalformedFrame):
            receive(store(), opened)
    with pytest.raises(InvalidAddress):
        receive(store(), StreamOpen(1, "artifact", size=1, digest="../x"))


def test_a_store_that_fetches_pins_nothing_it_was_not_told():
    """An edge's cache at its bound serves one model after another."""

    async def main():
        top, edge = store(), store(bound=6000)
        digests = [await top.put_bytes(blob(n)) for n in range(4)]
        for digest in digests:
            await edge.ensure(digest, fetch_from(Hop(top)))
        assert edge.digests() == digests[-1:]
        assert await edge.get(digests[0], Parent(blob(0))) == blob(0)

    asyncio.run(main())
