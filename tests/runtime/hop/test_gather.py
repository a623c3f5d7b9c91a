"""A stream collected in memory."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from msrt.buffers import SLICE, Rooms
from msrt.errors import Corrupt, StreamCancelled
from msrt.hop import Gather
from msrt.protocol.checksum import quick


async def _now(work, *args):
    return work(*args)


def _gathered(data, *, size, digest=None, rooms=None, piece=300_000):
    """What `use` was given of these bytes."""
    used = []

    async def use(payload):
        used.append(bytes(payload))
        if rooms is not None:
            rooms.give(payload)

    async def run():
        sink = Gather("an update", _now, use, size, rooms)
        for at in range(0, len(data), piece):
            await sink.write(at, data[at : at + piece])
        await sink.complete(len(data), digest or hashlib.sha256(data).hexdigest())

    asyncio.run(run())
    return used


@pytest.mark.parametrize("length", [0, 5, SLICE, SLICE + 1, 3 * SLICE + 7])
@pytest.mark.parametrize("known", [True, False])
def test_the_whole_is_handed_over_once(length, known):
    """Small or large, of a size that was said or one that grew."""
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    assert _gathered(data, size=length if known else -1) == [data]


def test_a_room_that_was_given_back_leaves_nothing_behind():
    """The second update of the same size is its own."""
    rooms = Rooms(2)
    one, two = b"a" * (SLICE + 9), b"b" * (SLICE + 9)
    assert _gathered(one, size=len(one), rooms=rooms) == [one]
    assert _gathered(two, size=len(two), rooms=rooms) == [two]


def test_other_bytes_than_promised_are_refused():
    """Nobody is given them."""
    with pytest.raises(Corrupt, match="do not match"):
        _gathered(b"x" * (SLICE + 1), size=SLICE + 1, digest="0" * 64)


def test_what_was_broken_off_is_dropped():
    """An aborted stream keeps no memory."""
    sink = Gather("an update", _now, _now, 2 * SLICE)
    asyncio.run(sink.write(0, b"x" * SLICE))
    sink.abort(StreamCancelled("gone"))
    assert sink._room is None


@pytest.mark.parametrize("size", [100, 3 * SLICE])
def test_an_update_may_carry_a_checksum(size):
    """In place of a digest; a wrong one is found as well."""
    data, got = bytes(range(250)) * (size // 250 + 1), []

    async def use(payload):
        got.append(bytes(payload))

    async def through(digest):
        sink = Gather("an update", _now, use, len(data))
        await sink.write(0, data)
        await sink.complete(len(data), digest)

    asyncio.run(through(quick(data)))
    assert got == [data]
    with pytest.raises(Corrupt, match="do not match"):
        asyncio.run(through("0" * 16))
