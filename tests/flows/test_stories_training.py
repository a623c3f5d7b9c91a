"""Named scenarios of training: who dies mid-round, and that each update is counted once all the same.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_training.py`.
"""

from __future__ import annotations

import asyncio

import pytest

from msrt.settings import CloudConfig
from tests.flows import invariants
from tests.flows.trainer import SimulatedTrainer
from tests.flows.tree import LEASE_S, grown, until

SLOW_S = 4.0
GRACE_LEASES = CloudConfig().rejoin_leases


def slow_ones(tree):
    """Every third device takes long, so that a round is half done for a while."""
    for number, name in enumerate(tree.devices):
        seconds = SLOW_S if number % 3 == 2 else 0.4
        tree.trainers[name] = SimulatedTrainer(lambda _node, _round, seconds=seconds: seconds)


async def half_a_round(tree, **config):
    """A job whose first round is open everywhere, some of its updates made and some not."""
    slow_ones(tree)
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    job = await tree.train(deadline_s=30.0, quorum=1.0, **config)
    await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] == 2, what="two of three came")
    return job


def checkpoints(tree):
    return [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]


def ids(tree, devices):
    return {tree.node_id(name) for name in devices}


@pytest.mark.parametrize("victim", ["edge-n", "cloud"])
def test_a_master_killed_mid_round_counts_nothing_twice(victim, seed):
    """Some updates were delivered and some not when it died; every round is the known mean of the whole tree."""

    async def story(tree):
        job = await half_a_round(tree, rounds=2)
        tree.sim.crash(victim)
        await asyncio.sleep(1)
        tree.sim.restart(victim)
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert tree.job(job).ended.state == "finished"
        rounds = checkpoints(tree)
        assert [fact.round for fact in rounds] == [1, 2]
        assert [set(fact.included) for fact in rounds] == [ids(tree, tree.devices)] * 2
        assert all(tree.trainers[name].trained for name in tree.devices)
        invariants.check_training(tree)

    grown(story, seed)


def test_a_restarted_cloud_opens_no_round_with_part_of_the_tree(seed):
    """An edge comes back seconds after the cloud: the round waits for it, and has everybody in it."""

    async def story(tree):
        job = await half_a_round(tree, rounds=1)
        for name in ("cloud", "edge-s"):
            tree.sim.crash(name)
        await asyncio.sleep(1)
        tree.sim.restart("cloud")
        await until(lambda: tree.cloud is not None and tree.cloud.ready.is_set(), what="the cloud is back")
        await asyncio.sleep(4)
        assert "to come back" in tree.cloud.training.rows(job)[0]["reason"]
        tree.sim.restart("edge-s")
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert [set(fact.included) for fact in checkpoints(tree)] == [ids(tree, tree.devices)]
        invariants.check_training(tree)

    grown(story, seed)


def test_a_restarted_cloud_waits_for_nobody_for_ever(seed):
    """An edge and a device that never come back cost the grace once; then the round opens with who is there.

    What the device had given its edge before it died still counts.
    """

    async def story(tree):
        job = await half_a_round(tree, rounds=2)
        for name in ("cloud", "edge-s", "device-1"):
            tree.sim.crash(name)
        await asyncio.sleep(1)
        tree.sim.restart("cloud")
        began = tree.sim.now
        grace = GRACE_LEASES * LEASE_S
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert tree.job(job).ended.state == "finished"
        everybody = ids(tree, tree.devices)
        assert [set(fact.included) for fact in checkpoints(tree)] == [everybody, everybody - ids(tree, ["device-1"])]
        invariants.check_training(tree)
        assert grace < tree.sim.now - began < grace + 2 * (SLOW_S + 3)

    grown(story, seed)
