"""The cloud's log of events: each once, bounded, read from any offset by those who follow."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import Event
from msrt.world.simulation import Simulation
from msrt_cloud.events import Events


def event(seq, node="n1", model="net", **data):
    return Event(node, seq, f"cam-{node}", "belt", model, 1, 0.0, data)


def keeping(scenario, bound=1 << 20):
    """Run `scenario(events, world)`."""
    with Simulation(1) as sim:
        world = sim.world("cloud")

        async def run():
            await scenario(Events(world, world.disk.store("events"), bound), world)

        sim.run(run(), until=600)


async def read(events, after=0, model="", device="", limit=500, wait_s=1.0):
    return await events.after(after, model, device, limit, wait_s)


def ids(found):
    return [(one["node"], one["seq"]) for one in found["events"]]


def test_an_event_that_came_by_two_ways_is_kept_once():
    """By its id: an edge that died had sent it already."""

    async def scenario(events, _world):
        await events.stored([event(1), event(2)])
        await events.stored([event(2), event(3), event(2, node="n2")])
        assert ids(await read(events)) == [("n1", 1), ("n1", 2), ("n1", 3), ("n2", 2)]

    keeping(scenario)


def test_events_survive_a_restart_and_are_still_known():
    """The log and what was seen are on the same disk."""

    async def scenario(events, world):
        await events.stored([event(1), event(2)])
        disk = world.disk.crash()
        again = Events(world, disk.store("events"), 1 << 20)
        await again.stored([event(2), event(3)])
        assert ids(await read(again)) == [("n1", 1), ("n1", 2), ("n1", 3)]

    keeping(scenario)


def test_a_follower_goes_on_where_it_was():
    """`next` is what it asks with; nothing is missed or repeated."""

    async def scenario(events, _world):
        await events.stored([event(n) for n in range(1, 8)])
        first = await read(events, limit=3)
        rest = await read(events, first["next"])
        assert ids(first) + ids(rest) == [("n1", n) for n in range(1, 8)]
        assert [one["offset"] for one in first["events"]] == [1, 2, 3]

    keeping(scenario)


def test_a_follower_waits_for_what_comes():
    """It is woken by the first event for it, and others' events do not wake it with nothing."""

    async def scenario(events, world):
        waiting = asyncio.ensure_future(read(events, -1, model="cat", wait_s=60))
        await asyncio.sleep(1)
        await events.stored([event(1)])
        await asyncio.sleep(1)
        assert not waiting.done()
        await events.stored([event(2, model="cat")])
        assert ids(await waiting) == [("n1", 2)]
        assert world.now() < 5

    keeping(scenario)


def test_a_wait_has_an_end():
    """With nothing to say it answers empty, with the offset to go on from."""

    async def scenario(events, world):
        await events.stored([event(1)])
        found = await read(events, -1, wait_s=3.0)
        assert (found, world.now()) == ({"events": [], "next": 1}, pytest.approx(3.0, abs=0.1))

    keeping(scenario)


def test_a_filter_is_by_model_and_by_device_name_or_id():
    """What does not match is passed over, and not looked at again."""

    async def scenario(events, _world):
        await events.stored([event(1), event(2, model="cat"), event(1, node="n2")])
        assert ids(await read(events, model="cat")) == [("n1", 2)]
        assert ids(await read(events, device="cam-n2")) == ids(await read(events, device="n2")) == [("n2", 1)]
        assert (await read(events, device="nobody"))["next"] == 3

    keeping(scenario)


def test_the_oldest_go_first_and_are_counted():
    """A bound in bytes; a follower that was too slow goes on with what there is."""

    async def scenario(events, _world):
        for number in range(1, 101):
            await events.stored([event(number, text="x" * 100)])
        found = await read(events)
        assert events.dropped + len(found["events"]) == 100
        assert found["events"][-1]["seq"] == 100
        assert 0 < len(found["events"]) < 50

    keeping(scenario, bound=5000)


def test_a_full_disk_is_said_to_the_edge():
    """It keeps its events and sends them again; then they are kept once."""

    async def scenario(events, world):
        world.disk.full = True
        with pytest.raises(errors.DiskFull):
            await events.stored([event(1)])
        assert ids(await read(events)) == []
        world.disk.full = False
        await events.stored([event(1)])
        assert ids(await read(events)) == [("n1", 1)]

    keeping(scenario)


def test_a_search_through_many_events_lets_others_work():
    """A follower whose filter matches nothing reads the whole log, and holds the loop for no more than a piece."""

    async def scenario(events, _world):
        for start in range(1, 3001, 500):
            await events.stored([event(n) for n in range(start, start + 500)])
        turns = 0
        search = asyncio.ensure_future(read(events, device="nobody", wait_s=0))
        while not search.done() and turns < 1000:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 20
        assert (await search)["next"] == 3000

    keeping(scenario)
