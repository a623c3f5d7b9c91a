"""A full disk on each tier in turn: who waits is told, nothing acknowledged is lost, and space heals all."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path

import pytest

from msrt import errors
from msrt.training.bundle import pack
from tests.flows import invariants
from tests.flows.trainer import SimulatedTrainer
from tests.flows.tree import grown, model_file, until

FULL_S = 8.0
SHAPE = {"edges": {"edge-n": 3, "edge-s": 2}, "device_config": {"reconnect_max_s": 1.0}}
VICTIMS = ("cloud", "edge-n", "device-1")
FILE = model_file(4)
DIGEST = hashlib.sha256(FILE).hexdigest()


async def serve_first(tree):
    """Model 1 runs on every device, and readings become events."""
    version = await tree.push(1)
    await tree.ask("model.rollout", model="net", version=version)
    await until(lambda: tree.ready("net", version), what="model 1 is ready everywhere")
    await until(lambda: tree.cloud.events.last > 4, what="events")


def never_gave_up(tree):
    """No process ended for it: a full disk is waited out."""
    assert b"fate.gave_up" not in tree.sim.log_bytes()


async def answered(tree, version=1):
    """Requests are answered right now, by that version."""
    asked = [tree.sim.node("client").handler.ask([1, 2, 3, n]) for n in range(6)]
    await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 6)
    assert [[m.version for m, _ in one.answers] for one in asked] == [[version]] * 6, [one.failures for one in asked]
    return asked


def job_bundle():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.toml").write_text('name = "refused"\ntask = "none:Nothing"\n')
        return pack(Path(folder)).data


def rounds(tree):
    return [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]


# --- the cloud's disk: operators wait for it ----------------------------------------------------------------------


def test_a_cloud_without_space_tells_every_operator_so():
    """Push, rollout, invite, label, job: each is refused as DiskFull, none of it happened, and then all of it works."""

    async def story(tree):
        await serve_first(tree)
        here = await tree.upload(model_file(2))
        bundle = await tree.upload(job_bundle())
        positions = dict(tree.cloud.writer.log.positions)
        tree.sim.disk_full("cloud")
        peer = tree.sim.node("operator").uplink.peer
        with pytest.raises(errors.DiskFull, match="free some space"):
            await peer.push("artifact", {"digest": DIGEST}, FILE, size=len(FILE), digest=DIGEST)
        calls = {
            "model.push": {"name": "net", "file": here},
            "model.rollout": {"model": "net", "version": 1, "canary": "n"},
            "invite.create": {"role": "client"},
            "node.label": {"node": "device-1", "labels": {"site": "c"}},
            "node.remove": {"node": "device-2"},
            "train.run": {"bundle": bundle},
        }
        for method, params in calls.items():
            with pytest.raises(errors.DiskFull, match="free some space"):
                await tree.ask(method, **params)
        assert tree.cloud.writer.log.positions == positions
        asked = await answered(tree)
        tree.sim.disk_full("cloud", full=False)
        assert await tree.push(2) == 2
        await tree.ask("model.rollout", model="net", version=2)
        await until(lambda: tree.ready("net", 2), what="model 2 is ready everywhere")
        await invariants.hold(tree, asked, acknowledged=[("net", 1), ("net", 2)])
        assert not tree.cloud.writer.state.jobs
        never_gave_up(tree)

    grown(story, **SHAPE)


def test_a_cloud_that_restarts_without_space_comes_back_with_all_that_it_acknowledged():
    """It starts, refuses what it cannot keep, and goes on when it can."""

    async def story(tree):
        await serve_first(tree)
        version = await tree.push(2)
        tree.sim.disk_full("cloud")
        tree.sim.crash("cloud")
        await asyncio.sleep(2)
        tree.sim.restart("cloud")
        await asyncio.sleep(FULL_S)
        tree.sim.disk_full("cloud", full=False)
        await until(lambda: tree.cloud is not None and tree.cloud.ready.is_set(), what="the cloud is back")
        await tree.insist("model.rollout", model="net", version=version)
        await until(lambda: tree.ready("net", version), what="model 2 is ready everywhere")
        await invariants.hold(tree, acknowledged=[("net", 1), ("net", version)])

    grown(story, **SHAPE)


# --- every tier ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_rollout_reaches_everybody_once_there_is_space(victim):
    """The old version serves meanwhile; the new one is not half there anywhere."""

    async def story(tree):
        await serve_first(tree)
        version = await tree.push(2)
        tree.sim.disk_full(victim)
        asking = asyncio.get_running_loop().create_task(tree.insist("model.rollout", model="net", version=version))
        await asyncio.sleep(2)
        asked = [tree.sim.node("client").handler.ask([4, 3, 2, n]) for n in range(6)]
        await asyncio.wait_for(asyncio.gather(*(one.settled for one in asked)), 6)
        assert all(len(one.answers) == 1 for one in asked), [one.failures for one in asked]
        await asyncio.sleep(FULL_S)
        tree.sim.disk_full(victim, full=False)
        await asking
        while tree.cloud.writer.state.rollouts["net"].state == "rolled_back":  # by itself, for it was not ready in time
            await tree.insist("model.rollout", model="net", version=version)
            await asyncio.sleep(5)
        await until(lambda: tree.ready("net", version), what="model 2 is ready everywhere")
        await invariants.hold(tree, asked, acknowledged=[("net", 1), ("net", version)])
        never_gave_up(tree)

    grown(story, **SHAPE)


@pytest.mark.parametrize("victim", VICTIMS)
def test_events_wait_for_space_and_arrive_once(victim):
    """None that was written down is lost, none comes twice, whoever had no space."""

    async def story(tree):
        await serve_first(tree)
        tree.sim.disk_full(victim)
        await asyncio.sleep(1)  # what was on its way when it happened
        kept = len(invariants.events(tree))
        await asyncio.sleep(FULL_S)
        if victim == "cloud":
            assert len(invariants.events(tree)) == kept, "nothing is taken that could not be kept"
        tree.sim.disk_full(victim, full=False)
        written = {name: tree[name].watches[0]._read for name in ("device-1", "device-2")}
        await until(lambda: not invariants.missing(tree, written), 60, "all events arrived")
        await asyncio.sleep(5)
        assert all(tree[name].watches[0]._read > written[name] for name in written), "sources go on"
        await invariants.hold(tree)
        never_gave_up(tree)

    grown(story, **SHAPE)


@pytest.mark.parametrize("victim", VICTIMS)
def test_events_survive_a_crash_of_who_had_no_space(victim):
    """What waited in memory for space was never acknowledged to anybody: it is read, or sent, again."""

    async def story(tree):
        await serve_first(tree)
        tree.sim.disk_full(victim)
        await asyncio.sleep(FULL_S)
        tree.sim.crash(victim)
        await asyncio.sleep(2)
        tree.sim.disk_full(victim, full=False)
        tree.sim.restart(victim)
        await until(lambda: all(tree[name] and tree[name].uplink.peer for name in tree.names[1:]), what="all are back")
        await asyncio.sleep(5)
        await invariants.hold(tree)

    grown(story, **SHAPE)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_round_outlasts_a_full_disk(victim):
    """It begins with space and loses it mid-round: the job ends well, and each round is the mean of whom it names."""

    async def story(tree):
        for name in tree.devices:
            tree.trainers[name] = SimulatedTrainer(lambda _node, _round: 2.0)
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        job = await tree.train(rounds=3, deadline_s=30.0, quorum=1.0)
        await until(lambda: tree.trainers["device-1"].config is not None, what="training began")
        tree.sim.disk_full(victim)
        await asyncio.sleep(FULL_S)
        tree.sim.disk_full(victim, full=False)
        await until(lambda: tree.ended(job), 200, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        assert [fact.round for fact in rounds(tree)] == [1, 2, 3]
        assert all(len(fact.included) == len(tree.devices) for fact in rounds(tree))
        await invariants.hold(tree)
        never_gave_up(tree)

    grown(story, **SHAPE)


@pytest.mark.parametrize("victim", ["edge-n", "device-1"])
def test_a_job_that_starts_without_space_somewhere_goes_on_with_the_others(victim):
    """Whoever cannot keep what a round needs is missing in it and back in a later one."""

    async def story(tree):
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        tree.sim.disk_full(victim)
        job = await tree.train(rounds=4, deadline_s=6.0, quorum=0.3)
        await until(lambda: tree.job(job).round >= 2, 60, "two rounds")
        tree.sim.disk_full(victim, full=False)
        await until(lambda: tree.ended(job), 100, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        assert len(rounds(tree)[-1].included) == len(tree.devices)
        await invariants.hold(tree)
        never_gave_up(tree)

    grown(story, **SHAPE)


@pytest.mark.parametrize("victim", VICTIMS)
def test_all_at_once_on_a_full_disk(victim):
    """Push, rollout, training, events and requests together, space lost and found three times: the tree converges."""

    async def story(tree):
        await serve_first(tree)
        job = await tree.train(rounds=3, deadline_s=10.0, quorum=0.4)
        loop, asked = asyncio.get_running_loop(), []

        async def change():
            version = await tree.push(2)
            await tree.insist("model.rollout", model="net", version=version)
            return version

        changing = loop.create_task(change())
        for _ in range(3):
            tree.sim.disk_full(victim)
            asked += [tree.sim.node("client").handler.ask([1, 2, 3, n]) for n in range(3)]
            await asyncio.sleep(3)
            tree.sim.disk_full(victim, full=False)
            await asyncio.sleep(0.7)
        version = await asyncio.wait_for(changing, 60)
        assert version == 2
        await until(lambda: tree.ended(job), 200, "the job ended")
        assert all(one.done for one in asked)
        await invariants.hold(tree, asked, acknowledged=[("net", 1), ("net", 2)])
        never_gave_up(tree)

    grown(story, **SHAPE)
