"""What `put` has returned for arrives on the other disk, once, in order, over any death."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.world.faults import play, random_schedule
from msrt.world.network import Faults
from msrt.world.simulation import seeds
from tests.runtime.hop.tree import TOLD, simulate, until


def test_events_arrive_in_order_and_the_outbox_empties():
    """Each is on the parent's disk once; acknowledged ones are forgotten."""

    async def scenario(tree):
        for n in range(600):
            await tree.c.post(str(n))
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == list(range(1, 601))

    simulate(scenario)


def test_events_wait_for_a_parent():
    """Queued while away, sent when it is back; nothing is sent twice to the disk."""

    async def scenario(tree):
        tree.sim.crash("p")
        await until(lambda: tree.c.up.peer is None)
        for n in range(50):
            await tree.c.post(str(n))
        tree.sim.restart("p")
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == list(range(1, 51))

    simulate(scenario)


def test_events_survive_the_death_of_their_device():
    """What was on disk when the device died is sent by its next life, and numbers go on where they were."""

    async def scenario(tree):
        tree.sim.partition("p", "c")
        for n in range(30):
            await tree.c.post(str(n))
        tree.sim.crash("c")
        tree.sim.heal()
        tree.sim.restart("c")
        await until(lambda: tree.sim.node("c") is not None)
        await tree.joined()
        await tree.c.post("after")
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == list(range(1, 32))

    simulate(scenario)


def test_a_parent_that_restarts_in_the_middle_loses_nothing():
    """A session that could not be resumed sends again what was not acknowledged in it."""

    async def scenario(tree):
        for n in range(400):
            await tree.c.post(str(n))
            if n in (100, 250):
                tree.sim.crash("p")
                tree.sim.restart("p")
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == list(range(1, 401))

    simulate(scenario)


def test_a_full_disk_of_the_parent_delays_and_loses_nothing():
    """Nothing is acknowledged while the disk is full; later all of it is there."""

    async def scenario(tree):
        tree.sim.disk_full("p", full=True)
        for n in range(20):
            await tree.c.post(str(n))
        await asyncio.sleep(5)
        assert len(tree.c.sender.outbox) == 20
        tree.sim.disk_full("p", full=False)
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == list(range(1, 21))

    simulate(scenario)


def test_a_full_disk_of_the_device_is_said_and_keeps_the_event():
    """`put` raises DiskFull; what it kept goes out once there is room."""

    async def scenario(tree):
        tree.sim.disk_full("c", full=True)
        with pytest.raises(errors.DiskFull):
            await tree.c.post("first")
        tree.sim.disk_full("c", full=False)
        await tree.c.post("second")
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert tree.p.handler.events() == [1, 2]

    simulate(scenario)


def test_an_event_that_no_link_carries_is_refused_at_once():
    """It is never queued, so nothing waits behind it."""

    async def scenario(tree):
        with pytest.raises(errors.FrameTooLarge):
            await tree.c.post("x" * (300 << 10))
        await tree.c.post("small")
        await until(lambda: tree.p.handler.events() == [1])

    simulate(scenario)


def test_durable_messages_of_who_may_not_send_them_end_the_session():
    """The parent refuses with the reason, acknowledges nothing, and lives on."""

    async def scenario(tree):
        tree.p.handler.refuse_durable = errors.Forbidden("you post no events")
        await tree.c.post("x")
        await until(lambda: isinstance(tree.c.up.refused, errors.Forbidden))
        assert len(tree.c.sender.outbox) == 1
        tree.p.handler.refuse_durable = None
        await until(lambda: len(tree.c.sender.outbox) == 0)

    simulate(scenario)


def test_events_go_to_the_next_parent():
    """What the first parent did not acknowledge is sent to the second."""

    async def scenario(tree):
        for n in range(20):
            await tree.c.post(str(n))
        tree.sim.crash("p")
        for n in range(20):
            await tree.c.post(str(n))
        await until(lambda: len(tree.c.sender.outbox) == 0)
        assert set(tree.q.handler.events()) >= set(range(21, 41))

    simulate(scenario, TOLD, parents=("p", "q"))


@pytest.mark.parametrize("seed", seeds(25))
def test_any_schedule_of_faults_keeps_the_promise(seed):
    """Crashes, cuts, stops, full disks and weather: what was acknowledged to the device is at the parent once."""

    async def scenario(tree):
        promised = []

        async def work():
            while True:
                node = tree.sim.node("c")
                if node is not None and tree.sim.alive("c"):
                    try:
                        promised.append(await tree.sim.spawn("c", node.post()))
                    except (errors.DiskFull, asyncio.CancelledError):
                        if asyncio.current_task().cancelling():
                            raise
                await asyncio.sleep(0.05)

        task = asyncio.get_running_loop().create_task(work())
        await play(tree.sim, random_schedule(tree.sim.rng, ["p", "c"], 12.0))
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: tree.sim.node("c") is not None)
        await tree.joined()
        await until(lambda: set(promised) <= set(tree.p.handler.events()), seconds=120)
        events = tree.p.handler.events()
        assert len(events) == len(set(events))

    simulate(scenario, Faults(), seed=seed)
