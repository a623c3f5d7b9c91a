"""Small weights ride with a round's opening, or follow from what changed: verified, and nothing of them on the disk."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import numpy as np
import pytest

from msrt.buffers import Rooms
from msrt.learning.compress import change, open_codec
from msrt.learning.vector import Layout, save
from msrt.protocol.checksum import quick
from msrt.protocol.messages import Change, RoundOpen
from msrt.training.weights import CARRIED, MOST, AtHand, bring, carries
from msrt.world.files import FieldDisk
from msrt.world.memory import MemoryDisk
from tests.runtime.artifacts.rig import store, world

LAYOUT = Layout.of({"w": np.zeros(8, np.float32)})
ZERO = np.zeros(8, np.float32)
FIRST = bytes(save(LAYOUT, ZERO))


def name(data):
    return hashlib.sha256(data).hexdigest()


def opened(weights, *chain, number=1):
    return RoundOpen("job", number, "b", b"s", weights, 5.0, chain=chain)


def follow():
    """The next weights, and the change that leads there."""
    moved = np.empty_like(ZERO)
    payload = change(open_codec("int8", LAYOUT), ZERO, np.arange(8, dtype=np.float32), 1, moved)
    return bytes(save(LAYOUT, moved)), bytes(payload)


def test_weights_that_came_along_are_found_again():
    """Also when the round is announced again without them."""
    hand = AtHand()
    assert hand.find(opened(name(FIRST)), [FIRST]) == FIRST
    assert hand.find(opened(name(FIRST))) == FIRST


@pytest.mark.parametrize("frames", [[], [b"others"]])
def test_what_is_not_named_is_not_taken(frames):
    """They are fetched then."""
    assert AtHand().find(opened(name(FIRST)), frames) is None


def test_the_next_weights_follow_from_a_change():
    """The version before is at hand, and the digest of what comes out is right."""
    hand, (after, payload) = AtHand(), follow()
    hand.find(opened(name(FIRST)), [FIRST])
    step = Change(name(FIRST), name(payload), "int8")
    assert bytes(hand.find(opened(name(after), step, number=2), [payload])) == after
    assert bytes(hand.find(opened(name(after), step, number=2))) == after


@pytest.mark.parametrize("known", [True, False])
def test_a_change_that_leads_elsewhere_is_nothing(known):
    """Its base is not here, or its result is not what the cloud names."""
    hand, (after, payload) = AtHand(), follow()
    if known:
        hand.find(opened(name(FIRST)), [FIRST])
    wanted = name(b"something else") if known else name(after)
    step = Change(name(FIRST), name(payload), "int8")
    assert hand.find(opened(wanted, step, number=2), [payload]) is None


def test_a_change_that_cannot_be_read_is_nothing():
    """Whatever its digest says."""
    hand = AtHand()
    hand.find(opened(name(FIRST)), [FIRST])
    step = Change(name(FIRST), name(b"no payload"), "int8")
    assert hand.find(opened(name(follow()[0]), step, number=2), [b"no payload"]) is None


def test_a_job_that_is_over_keeps_nothing():
    """Its name may be used again."""
    hand = AtHand()
    hand.find(opened(name(FIRST)), [FIRST])
    hand.forget("job")
    assert hand.find(opened(name(FIRST))) is None


def test_only_what_is_small_rides_along():
    """A change does where the weights that it leads to are kept in memory."""
    assert carries(bytes(CARRIED)) == (bytes(CARRIED),)
    assert carries(bytes(CARRIED + 1)) == ()
    assert carries(bytes(MOST), b"change") == (b"change",)
    assert carries(bytes(MOST + 1), b"change") == ()


def moved_on(size=200_000, seed=3):
    """(weights file, the next one, the payload between them, checksum of the next one's elements)."""
    layout = Layout.of({"w": np.zeros(size, np.float32)})
    have, wanted = np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32)
    out = np.empty(size, np.float32)
    payload = change(open_codec("int8", layout), have, wanted, 1, out)
    return *(bytes(part) for part in (save(layout, have), save(layout, out), payload)), quick(out.data.cast("B"))


def brings(disk, before, message, payload, *, hold=False):
    """What is in the store after a round's weights were brought, and what was fetched for it."""
    artifacts, fetched = store(disk), []

    async def fetch(digest, _offset, sink):
        fetched.append(digest)
        data = {name(payload): payload}[digest]
        await sink.write(0, data)
        await sink.complete(len(data), digest)

    async def work():
        await artifacts.put_bytes(before)
        if hold:
            artifacts.pin([name(before)], "another")
        await bring(world(disk), artifacts, fetch, message, Rooms(1))
        return await artifacts.read(message.weights)

    return bytes(asyncio.run(work())), artifacts.has(name(before)), fetched


@pytest.mark.parametrize("field", [True, False])
def test_weights_follow_a_change_in_their_own_place(field, tmp_path):
    """One change is fetched; the version before, which nobody needs, became the next one."""
    before, after, payload, checksum = moved_on()
    step = Change(name(before), name(payload), "int8")
    message = msgspec.structs.replace(opened(name(after), step, number=2), checksum=checksum)
    disk = FieldDisk(tmp_path) if field else MemoryDisk()
    assert brings(disk, before, message, payload) == (after, False, [name(payload)])


@pytest.mark.parametrize("checksum", ["", "held"])
def test_a_version_that_somebody_needs_stays(checksum):
    """Nor does it go where the cloud tells no checksum."""
    before, after, payload, sum_ = moved_on()
    step = Change(name(before), name(payload), "int8")
    message = msgspec.structs.replace(opened(name(after), step, number=2), checksum=checksum and sum_)
    assert brings(MemoryDisk(), before, message, payload, hold=bool(checksum)) == (after, True, [name(payload)])
