"""An edge's events: on disk before they are acknowledged, each once, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from msrt import errors
from msrt.journal import outbox
from msrt.protocol.messages import Load
from msrt.world.memory import MemoryDisk
from msrt_edge import events as room
from msrt_edge.events import Events
from tests.edge.rig import event, identity, simulate, until


class Spool:
    """An edge's events on a disk that a test can fill and crash."""

    def __init__(self, disk=None, bound=1 << 20, age=0.0, webhook=False):
        self.disk, self.wall = disk or MemoryDisk(random.Random(1)), 0.0
        self.options = {"bound_bytes": bound, "max_age_s": age, "webhook": webhook}
        self.world = SimpleNamespace(disk=self.disk, offload=self._offload, wall=lambda: self.wall)
        self.events = Events(self.world, **self.options)

    async def _offload(self, work, *args):
        return work(*args)

    async def store(self, *seqs, name="d1", **data):
        await self.events.stored([event(name, seq, **data) for seq in seqs])

    def restarted(self):
        """What the next process finds."""
        options = self.options
        return Spool(self.disk.crash(), options["bound_bytes"], options["max_age_s"], options["webhook"])

    def waiting(self, box=None):
        return len((self.events.upward.outbox if box is None else box).unacked())


def run(scenario):
    asyncio.run(scenario)


def test_what_was_taken_is_on_disk():
    """A crash right after loses nothing, neither for the cloud nor for the webhook."""

    async def scenario():
        spool = Spool(webhook=True)
        await spool.store(1, 2, 3)
        after = spool.restarted()
        assert (after.waiting(), after.waiting(after.events.hook)) == (3, 3)
        assert spool.waiting(spool.events.hook) == 3, "and may be posted at once"

    run(scenario())


def test_the_same_event_again_is_taken_once():
    """Resent in the same life or after a restart, it is counted as a duplicate and changes nothing."""

    async def scenario():
        spool = Spool()
        await spool.store(1, 2)
        await spool.store(1, 2, 3)
        assert (spool.events.received, spool.events.duplicates, spool.waiting()) == (3, 2, 3)
        after = spool.restarted()
        await after.store(3, 4)
        assert (after.events.duplicates, after.waiting()) == (1, 4)
        await after.store(3, name="d2")
        assert after.waiting() == 5, "another device's number is another event"

    run(scenario())


def test_what_is_no_event_is_left_out():
    """Only events are durable upwards."""

    async def scenario():
        spool = Spool()
        await spool.events.stored([Load({}), event("d1", 1)])
        assert spool.waiting() == 1

    run(scenario())


def test_a_full_disk_refuses_and_keeps_what_came_for_later():
    """The caller is told; offered again with room on the disk, it is stored once and followers hear of it once."""

    async def scenario():
        spool, heard = Spool(), []
        follower = asyncio.ensure_future(collect(spool.events, heard))
        await asyncio.sleep(0)
        spool.disk.full = True
        for _ in range(3):
            with pytest.raises(errors.DiskFull):
                await spool.store(1, 2)
        assert heard == []
        spool.disk.full = False
        await spool.store(1, 2)
        await asyncio.sleep(0)
        assert (heard, spool.events.received, spool.waiting()) == ([1, 2], 2, 2)
        follower.cancel()

    run(scenario())


def test_events_beyond_what_a_full_disk_lets_wait_are_not_lost(monkeypatch):
    """The outbox takes no more: what it refused is not marked as seen, and is stored when it is offered again."""
    monkeypatch.setattr(outbox, "STUCK_LIMIT", 300)

    async def scenario():
        spool, heard = Spool(webhook=True), []
        follower = asyncio.ensure_future(collect(spool.events, heard))
        await asyncio.sleep(0)
        spool.disk.full = True
        for seq in range(1, 20):
            with pytest.raises(errors.DiskFull):
                await spool.store(seq)
        spool.disk.full = False
        for seq in range(1, 20):
            await spool.store(seq)
        await asyncio.sleep(0)
        after = spool.restarted()
        assert sorted(heard) == list(range(1, 20))
        assert (after.waiting(), after.waiting(after.events.hook)) == (19, 19)
        follower.cancel()

    run(scenario())


def test_an_event_larger_than_the_spool_takes_is_dropped_and_counted():
    """Refusing it would send its device away for ever, and keep everything behind it back."""

    async def scenario():
        spool = Spool(bound=1000, webhook=True)
        await spool.store(1)
        await spool.events.stored([event("d1", 2, text="x" * 500), event("d1", 3)])
        assert (spool.waiting(), spool.waiting(spool.events.hook), spool.events.dropped) == (2, 2, 1)
        await spool.events.stored([event("d1", 2, text="x" * 500)])
        assert (spool.events.duplicates, spool.events.dropped) == (1, 1)

    run(scenario())


def test_the_spool_is_bounded_and_the_oldest_go():
    """With the cloud away the newest tell most; what went is counted, over a restart as well."""

    async def scenario():
        spool = Spool(bound=1000)
        for seq in range(1, 31):
            await spool.store(seq)
        box = spool.events.upward.outbox
        assert box.size <= 1000
        assert spool.events.dropped == 30 - spool.waiting() > 0
        assert box.unacked()[-1][0] == 30
        assert spool.restarted().events.dropped == spool.events.dropped

    run(scenario())


def test_events_grow_too_old_for_the_cloud_and_for_the_webhook():
    """Both queues have the same bound in age."""

    async def scenario():
        spool = Spool(age=100.0, webhook=True)
        await spool.store(1)
        spool.wall = 60.0
        await spool.store(2)
        spool.wall = 120.0
        await spool.events.expire()
        assert (spool.waiting(), spool.waiting(spool.events.hook), spool.events.dropped) == (1, 1, 1)

    run(scenario())


def test_a_disk_that_stays_full_does_not_end_the_edge():
    """Minutes later the edge still serves, and takes events as soon as there is room."""

    async def scenario(rig):
        await rig.d1.post(n=1)
        await until(lambda: rig.events == [("d1", 1)])
        rig.sim.disk_full("edge")
        await rig.d1.post(n=2)
        await asyncio.sleep(200)
        assert rig.here("d1")
        assert rig.events == [("d1", 1)]
        rig.sim.disk_full("edge", full=False)
        await until(lambda: ("d1", 2) in rig.events)

    simulate(scenario)


async def collect(events, heard, model="", device=""):
    async for one in events.follow(model, device):
        heard.append(one.seq)


def test_a_follower_hears_what_it_asked_for():
    """By model, by the device's name or its node id."""

    async def scenario():
        spool = Spool()
        node = identity("d1").node
        asked = {"all": ("", ""), "model": ("other", ""), "name": ("", "d2"), "node": ("", node), "none": ("net", "x")}
        heard = {name: [] for name in asked}
        tasks = [asyncio.ensure_future(collect(spool.events, heard[name], *args)) for name, args in asked.items()]
        await asyncio.sleep(0)
        await spool.store(1)
        await spool.events.stored([event("d2", 2, "other")])
        await asyncio.sleep(0)
        assert heard == {"all": [1, 2], "model": [2], "name": [2], "node": [1], "none": []}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not spool.events._followers, "who left is forgotten"

    run(scenario())


def test_a_slow_follower_holds_nobody_up(monkeypatch):
    """Beyond its bound it misses the oldest; the spool, and other followers, have them all."""
    monkeypatch.setattr(room, "FOLLOWER_QUEUE", 3)

    async def scenario():
        spool = Spool()
        slow = spool.events.follow("", "")
        first = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        await spool.store(*range(1, 9))
        assert (await first).seq == 6
        assert [(await anext(slow)).seq for _ in range(2)] == [7, 8]
        assert spool.waiting() == 8
        await slow.aclose()

    run(scenario())


def test_events_wait_for_the_cloud_and_arrive_once():
    """Taken and acknowledged while the cloud is away, over a restart of the edge, each comes to the cloud once."""

    async def scenario(rig):
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None)
        for n in range(20):
            await rig.d1.post(n=n)
        await until(lambda: len(rig.d1.sender.outbox) == 0)
        assert rig.edge.events.waiting == 20
        await rig.reborn("edge")
        await until(rig.edge.ready.is_set)
        assert rig.edge.events.waiting == 20
        rig.sim.restart("cloud")
        await until(lambda: len(rig.events) == 20)
        assert rig.events == [("d1", n) for n in range(1, 21)]
        await until(lambda: rig.edge.events.waiting == 0)

    simulate(scenario)


def test_clients_post_no_events():
    """Theirs are refused and counted, and not acknowledged."""

    async def scenario(rig):
        await rig.c.post(n=1)
        await until(lambda: rig.edge.refused > 0)
        assert rig.edge.events.received == 0
        assert len(rig.c.sender.outbox) == 1

    simulate(scenario, devices=(), clients=("c",))
