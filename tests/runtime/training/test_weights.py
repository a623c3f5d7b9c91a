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


def brings(disk, before, message, payload, *, hold=False, had=None, sent=()):
    """What is in the store after a round's weights were brought, and what was fetched for it. `sent`: what comes in
    place of the payload, try by try.
    """
    artifacts, fetched, coming = store(disk), [], iter(sent)

    async def fetch(digest, _offset, sink):
        fetched.append(digest)
        data = next(coming, {name(payload): payload}[digest])
        await sink.write(0, data)
        await sink.complete(len(data), digest)

    async def work():
        await artifacts.put_bytes(before)
        if hold:
            artifacts.pin([name(before)], "another")
        await bring(world(disk), artifacts, fetch, message, Rooms(1), had)
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


@pytest.mark.parametrize("field", [True, False])
@pytest.mark.parametrize("hold", [True, False])
def test_whole_weights_take_the_place_of_those_before(field, hold, tmp_path):
    """Where this node passes them on to nobody; those that somebody needs stay."""
    before, after, _, checksum = moved_on()
    message = msgspec.structs.replace(opened(name(after), number=2), checksum=checksum)
    disk = FieldDisk(tmp_path) if field else MemoryDisk()
    assert brings(disk, before, message, after, hold=hold, had=name(before)) == (after, hold, [name(after)])


@pytest.mark.parametrize("had", ["", None])
def test_whole_weights_that_came_wrong_are_fetched_again(had):
    """The checksum finds it, or the digest, and then the digest decides."""
    before, after, _, checksum = moved_on()
    message = msgspec.structs.replace(opened(name(after), number=2), checksum=checksum)
    wrong = after[:-1] + bytes([after[-1] ^ 1])
    assert brings(MemoryDisk(), before, message, after, had=had, sent=[wrong]) == (after, True, 2 * [name(after)])


def test_a_wrong_checksum_costs_a_second_fetch():
    """The digest has the last word."""
    before, after, _, _ = moved_on()
    message = msgspec.structs.replace(opened(name(after), number=2), checksum="0" * 16)
    assert brings(MemoryDisk(), before, message, after, had="") == (after, True, 2 * [name(after)])


@pytest.mark.parametrize("had", ["", None])
def test_a_change_takes_the_place_of_the_one_before(had):
    """Where this node passes it on to nobody."""
    before, after, payload, checksum = moved_on()
    old = b"the change that led to the version before"
    chain = Change("0" * 64, name(old), "int8"), Change(name(before), name(payload), "int8")
    message = msgspec.structs.replace(opened(name(after), *chain, number=3), checksum=checksum)
    disk = MemoryDisk()
    disk.blobs().put(name(old), old, sync=True)
    assert brings(disk, before, message, payload, had=had) == (after, False, [name(payload)])
    assert (disk.blobs().size(name(old)) is None) == (had is not None)


@pytest.mark.parametrize("field", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("fault", ["another code", "another scale", "short"])
def test_a_change_that_came_wrong_is_found_by_where_it_leads(field, checksum, fault, tmp_path):
    """Its digest is not looked at where nobody else gets it: the whole weights are fetched, and nothing of it stays."""
    before, after, payload, sum_ = moved_on()
    wrong = bytearray(payload)
    wrong[-1 if fault == "another code" else 0] ^= 1
    wrong = bytes(wrong[:-1] if fault == "short" else wrong)
    step = Change(name(before), name(payload), "int8")
    message = msgspec.structs.replace(opened(name(after), step, number=2), checksum=sum_ if checksum else "")
    disk = FieldDisk(tmp_path) if field else MemoryDisk()
    artifacts, coming = store(disk), {name(payload): wrong, name(after): after}

    async def fetch(digest, _offset, sink):
        await sink.write(0, coming[digest])
        await sink.complete(len(coming[digest]), digest)

    async def work():
        await artifacts.put_bytes(before)
        await bring(world(disk), artifacts, fetch, message, Rooms(1), name(before))
        return await artifacts.read(message.weights)

    assert bytes(asyncio.run(work())) == after
    assert not artifacts.has(name(payload))
