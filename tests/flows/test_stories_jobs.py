"""Named scenarios of jobs as their operator handles them: paused over deaths, started again by what devices find.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_jobs.py`.
"""

from __future__ import annotations

import asyncio

from msrt.learning.vector import load
from tests.flows import invariants
from tests.flows.test_stories_training import checkpoints, half_a_round, ids
from tests.flows.tree import grown, until


def let_go(tree):
    """Is no device's process left?"""
    return all(trainer.config is None for trainer in tree.trainers.values())


def test_a_paused_job_ends_its_round_and_lets_every_process_go(seed):
    """Resumed it goes on with the next one, and no round counts anything twice or leaves anybody out."""

    async def story(tree):
        job = await half_a_round(tree, rounds=3)
        await tree.ask("train.pause", job=job)
        await until(lambda: tree.job(job).round == 1, 60, "the open round ended")
        await until(lambda: let_go(tree), 10, "all processes are gone")
        await asyncio.sleep(20)
        assert tree.job(job).round == 1
        assert let_go(tree)
        await tree.ask("train.resume", job=job)
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert [set(fact.included) for fact in checkpoints(tree)] == [ids(tree, tree.devices)] * 3
        invariants.check_training(tree)

    grown(story, seed)


def test_a_pause_holds_over_the_death_of_masters(seed):
    """The cloud and an edge die in the paused round: it is not opened again before an operator says so."""

    async def story(tree):
        job = await half_a_round(tree, rounds=2)
        await tree.ask("train.pause", job=job)
        for name in ("cloud", "edge-n"):
            tree.sim.crash(name)
        await asyncio.sleep(1)
        for name in ("cloud", "edge-n"):
            tree.sim.restart(name)
        await until(tree.everyone_joined, 60, "everyone is back")
        await until(lambda: let_go(tree), 20, "all processes are gone")
        await asyncio.sleep(20)
        assert (tree.job(job).round, tree.job(job).state) == (0, "paused")
        assert let_go(tree)
        await tree.insist("train.resume", job=job)
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert [set(fact.included) for fact in checkpoints(tree)] == [ids(tree, tree.devices)] * 2
        invariants.check_training(tree)

    grown(story, seed)


def test_a_stopped_job_leaves_nothing_on_its_devices(seed):
    """No process, and no update that would be sent for ever; what was under way is no failure. Nor on its edges."""

    async def story(tree):
        job = await half_a_round(tree, rounds=2)
        await tree.ask("train.stop", job=job)
        await until(lambda: let_go(tree), 20, "all processes are gone")
        await asyncio.sleep(5)
        assert [one._kept for name in tree.devices if (one := tree[name].jobs.training) and one._kept] == []
        assert [tree[name].training.progress for name in tree.edges] == [{}, {}]

    grown(story, seed)


def test_new_events_start_the_next_job_once_whoever_dies(seed):
    """Devices' sensors find something twice a second; the cloud is killed while the job trains and while it counts."""

    async def story(tree):
        version = await tree.push(1)
        await tree.insist("model.rollout", model="net")
        await until(lambda: tree.ready("net", version), 60, "everybody serves it")
        trigger = {"model": "net", "events": 60, "cooldown_s": 10.0}
        job = await tree.train(rounds=2, trigger=trigger)
        await asyncio.sleep(1)
        await bounce(tree)
        await until(lambda: tree.ended(job), 120, "the job ended")
        await asyncio.sleep(2)
        await bounce(tree)
        await until(
            lambda: tree.cloud is not None and "job-2" in jobs(tree) and jobs(tree)["job-2"].round == 1,
            120,
            "the next one began",
        )
        first, second = tree.job(job), tree.job("job-2")
        assert second.created.cause.endswith("new events of net")
        assert (second.created.after, second.created.start) == (job, first.weights)
        assert second.created.wall >= first.ended.wall + 10.0
        await tree.insist("train.pause", job="job-2")
        assert sorted(jobs(tree)) == [job, "job-2"]
        assert load(await tree.cloud.artifacts.read(first.weights))[1].any()

    grown(story, seed)


def jobs(tree):
    """As the cloud's journal has them."""
    return tree.cloud.writer.state.jobs


async def bounce(tree):
    """The cloud dies and comes back."""
    tree.sim.crash("cloud")
    await asyncio.sleep(0.5)
    tree.sim.restart("cloud")
    await until(lambda: tree.cloud is not None and tree.cloud.ready.is_set(), 60, "the cloud is back")
