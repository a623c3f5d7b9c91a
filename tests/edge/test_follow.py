"""The replica of an edge: what the cloud desires, on the edge's own disk."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.journal.facts import NodeLabelled, RolloutSet
from msrt.protocol.messages import Follow, FollowRefused, JournalBlock, StreamOpen
from msrt.world.network import Faults
from msrt_edge import follow as room
from tests.edge.rig import pushed, simulate, until


async def labelled(rig, count=1, size=10):
    """So many entries, and the edge has them in force."""
    for number in range(count):
        await rig.cloud.writer.append(NodeLabelled(f"node{number}", {"k": "x" * size}))


def caught_up(rig):
    """Are the edge's positions its cloud's?"""
    follower = rig.edge.follower
    return all(follower.replica.positions.get(scope, at) == at for scope, at in rig.cloud.writer.log.positions.items())


async def compacted(rig):
    """The cloud lets go of its blocks: who is behind needs the snapshot."""
    log = rig.cloud.writer.log
    for number in range(2):
        await rig.cloud.writer.append(NodeLabelled(f"compacted{number}", {}))
        frozen = log.freeze()
        log.compact(frozen)
        log.compacted(frozen)
        log.flush()
    assert log.needs_snapshot("global", 0)


def test_what_the_cloud_writes_is_in_force_and_on_disk():
    """In this order, and both soon."""

    async def scenario(rig):
        await rig.cloud.writer.append(pushed(1), RolloutSet("net", 1))
        await until(lambda: rig.edge.follower.state.rollouts, 1)
        await until(lambda: rig.edge.follower.replica.durable == rig.edge.follower.replica.positions, 1)

    simulate(scenario, devices=())


def test_an_edge_that_restarts_without_the_cloud_knows_what_it_knew():
    """Its own disk says enough; with the cloud back it catches up."""

    async def scenario(rig):
        await rig.cloud.writer.append(pushed(1), RolloutSet("net", 1))
        await until(lambda: rig.edge.follower.replica.durable.get("global") == 2)
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        await until(rig.edge.ready.is_set)
        assert rig.edge.follower.state.rollouts["net"].version == 1
        rig.sim.restart("cloud")
        await rig.settled()
        await rig.cloud.writer.append(RolloutSet("net", 1, state="rolled_back"))
        await until(lambda: rig.edge.follower.state.rollouts["net"].state == "rolled_back")

    simulate(scenario, devices=())


def test_an_edge_far_behind_loads_a_snapshot():
    """And goes on from there with blocks."""

    async def scenario(rig):
        rig.sim.crash("edge")
        await labelled(rig, 50)
        await compacted(rig)
        rig.sim.restart("edge")
        await until(lambda: rig.edge is not None and caught_up(rig) and rig.edge.follower.replica.positions["global"])
        await rig.cloud.writer.append(NodeLabelled("later", {}))
        await until(lambda: caught_up(rig))

    simulate(scenario, devices=())


def test_a_snapshot_that_broke_off_is_asked_for_again():
    """The cloud dies while it sends one; the edge is whole afterwards, or where it was before."""

    async def scenario(rig):
        rig.sim.crash("edge")
        await labelled(rig, 60, size=2000)
        await compacted(rig)
        rig.sim.weather(Faults(bandwidth=20_000))
        rig.sim.restart("edge")
        await until(lambda: rig.edge is not None and rig.edge.uplink.peer is not None)
        await asyncio.sleep(2)
        assert rig.edge.follower.replica.positions["global"] == 0
        rig.sim.crash("cloud")
        await asyncio.sleep(5)
        assert rig.edge.follower.replica.positions["global"] == 0
        rig.sim.weather(Faults())
        rig.sim.restart("cloud")
        await until(lambda: rig.cloud is not None and rig.edge.follower.replica.positions["global"] and caught_up(rig))

    simulate(scenario, devices=())


def test_a_snapshot_without_measure_is_refused():
    """Before a byte of it is taken."""

    async def scenario(rig):
        opened = StreamOpen(1, "snapshot", {}, room.SNAPSHOT_LIMIT + 1)
        with pytest.raises(errors.FrameTooLarge, match="journal snapshot"):
            rig.edge.follower.snapshot(rig.edge.uplink.peer, opened)

    simulate(scenario, devices=())


def test_a_block_that_the_cloud_did_not_sign_changes_nothing():
    """It is refused, the edge asks again from where it is, and gets what is true."""

    async def scenario(rig):
        await labelled(rig)
        await until(lambda: caught_up(rig))
        asked = len(rig.cloud.told(Follow))
        log = rig.cloud.writer.log
        real = log.next_block("global", 0)
        forged = msgspec.structs.replace(real.message(), prev=1, first=2, last=2)
        assert isinstance(forged, JournalBlock)
        rig.cloud.peer.send(forged, (real.payload,))
        await until(lambda: len(rig.cloud.told(Follow)) == asked + 1)
        assert rig.edge.follower.replica.positions["global"] == 1
        await rig.cloud.writer.append(NodeLabelled("true", {}))
        await until(lambda: caught_up(rig))

    simulate(scenario, devices=())


def test_a_gap_is_filled_by_asking_again():
    """A block that does not follow on what is here is not taken."""

    async def scenario(rig):
        rig.cloud.feed.stop(rig.edge.node)
        await labelled(rig, 3)
        rig.cloud.peer.send(rig.cloud.writer.log.next_block("global", 2).message(), (b"",))
        block = rig.cloud.writer.log.next_block("global", 2)
        rig.cloud.peer.send(block.message(), (block.payload,))
        await until(lambda: caught_up(rig) and rig.edge.follower.replica.positions["global"] == 3)

    simulate(scenario, devices=())


def test_a_full_disk_is_no_reason_to_miss_a_model():
    """Entries are in force at once, and reported as held only when they are on disk."""

    async def scenario(rig):
        await labelled(rig)
        await until(lambda: rig.edge.follower.replica.durable.get("global") == 1)
        rig.sim.disk_full("edge")
        await rig.cloud.writer.append(pushed(1), RolloutSet("net", 1))
        await until(lambda: rig.edge.follower.state.rollouts)
        await asyncio.sleep(5)
        assert rig.edge.follower.replica.durable["global"] == 1
        rig.sim.disk_full("edge", full=False)
        await until(lambda: rig.edge.follower.replica.durable["global"] == 3, 3)

    simulate(scenario, devices=())


def test_an_edge_that_its_cloud_refuses_says_why_and_keeps_what_it_has():
    """Until the cloud takes it again."""

    async def scenario(rig):
        await labelled(rig)
        await until(lambda: caught_up(rig))
        rig.cloud.say(FollowRefused("the replica follows another journal"))
        await until(lambda: rig.edge.follower.refused)
        assert "another journal" in rig.edge.follower.refused
        assert rig.edge.follower.replica.positions["global"] == 1
        await rig.reborn("cloud")
        await rig.settled()
        await until(lambda: not rig.edge.follower.refused)

    simulate(scenario, devices=())


def test_a_long_tail_becomes_a_snapshot_of_its_own(monkeypatch):
    """A restart reads little, and finds the same state."""
    monkeypatch.setattr("msrt.journal.replica.COMPACT_BLOCKS", 5)

    async def scenario(rig):
        await labelled(rig, 12)
        await until(lambda: rig.edge.follower.replica.durable.get("global") == 12)
        before = rig.edge.follower.state.snapshot()
        assert rig.edge.follower.replica._blocks < 12
        rig.sim.crash("cloud")
        await rig.reborn("edge")
        assert rig.edge.follower.state.snapshot() == before

    simulate(scenario, devices=())
