"""Private jobs over the whole tree: what is added, what is spent, and that no death spends twice or forgets.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_privacy.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import dp_accounting as dp
import numpy as np
import pytest

from msrt.errors import InvalidJob, JobFailed
from msrt.learning.aggregate import scale_down
from msrt.learning.vector import load
from msrt.protocol.messages import Event
from tests.flows import invariants
from tests.flows.trainer import SIZE, SimulatedTrainer, known_update
from tests.flows.tree import grown, until

TREE = {"edge-n": 2, "edge-s": 3}
LONG = 1e3
"""A clip that no known update reaches."""


def checkpoints(tree):
    return [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]


def moved(tree, facts):
    """By how much each round moved the weights."""
    before, steps = np.zeros(SIZE, np.float32), []
    for fact in facts:
        now = load(tree.cloud.artifacts.blobs.read(fact.weights))[1]
        steps.append(now - before)
        before = now
    return steps


async def private(tree, rounds, **privacy):
    """Start a private job once everybody is here; its name."""
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    return await tree.train(rounds=rounds, deadline_s=30.0, quorum=0.5, privacy={"mode": "central", **privacy})


async def over(tree, job):
    await until(lambda: tree.ended(job), 300, "the job ended")
    return checkpoints(tree)


def epsilon(noise, rounds, delta=1e-5):
    return dp.get_epsilon_gaussian(noise / rounds**0.5, delta)


def test_the_cloud_adds_its_noise_once_to_a_mean_of_equals(seed):
    """Every node counts the same, whatever samples it claims; the noise on their sum has `noise * clip`, drawn anew in
    each round."""

    async def story(tree):
        job = await private(tree, 12, clip=LONG, noise=2e-4)
        facts = await over(tree, job)
        noise = []
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            updates = [known_update(job, fact.round, node)[0].astype(np.float64) for node in fact.included]
            noise.append((way - np.mean(updates, axis=0)) * len(updates))
        drawn = np.concatenate(noise)
        assert drawn.std() == pytest.approx(2e-4 * LONG, rel=5 / np.sqrt(2 * drawn.size))
        assert abs(drawn.mean()) < 5 * drawn.std() / np.sqrt(drawn.size)
        assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.6

    grown(story, seed, edges=TREE)


def test_every_update_is_scaled_down_to_the_clip():
    """By the edges, in regions and alone; what is left of the sums is their mean."""

    async def story(tree):
        job = await private(tree, 2, clip=1.0, noise=1e-5)
        facts = await over(tree, job)
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            updates = [known_update(job, fact.round, node)[0].astype(np.float64) for node in fact.included]
            clipped = [update * scale_down(float(np.linalg.norm(update)), 1.0) for update in updates]
            assert all(np.linalg.norm(update) > 1.0 for update in updates)
            assert np.allclose(way, np.mean(clipped, axis=0), atol=1e-4)

    grown(story, 1, edges=TREE)


@pytest.mark.parametrize("victim", ["", "cloud", "edge-n"])
def test_a_job_ends_when_its_budget_is_spent(victim, seed):
    """Finished, with the reason, before the round that would spend more; lines, journal and report say what was spent,
    and a master that is killed on the way changes none of it."""

    async def story(tree):
        budget = epsilon(3.0, 4) + 1e-9
        job = await private(tree, 50, clip=LONG, noise=3.0, budget=budget)
        if victim:
            await until(lambda: tree.job(job) and tree.job(job).round >= 1, 60, "a round")
            tree.sim.crash(victim)
            await asyncio.sleep(1)
            tree.sim.restart(victim)
        facts = await over(tree, job)
        ended = tree.job(job).ended
        assert (ended.state, ended.reason) == ("finished", "its privacy budget is spent after round 4")
        spent = [epsilon(3.0, rounds) for rounds in (1, 2, 3, 4)]
        assert [fact.metrics["epsilon"] for fact in facts] == pytest.approx(spent)
        report = await tree.ask("train.report", job=job)
        assert [line["epsilon"] for line in report["rounds"]] == pytest.approx(spent)
        assert {line["delta"] for line in report["rounds"]} == {1e-5}
        assert report["epsilon"] == pytest.approx(spent[-1])
        [row] = await tree.ask("train.status", job=job)
        assert row["metrics"]["epsilon"] == pytest.approx(spent[-1])

    grown(story, seed, edges=TREE)


def test_a_job_that_goes_on_from_another_goes_on_spending():
    """Its budget is that of both: what the first one spent is spent."""

    async def story(tree):
        first = await private(tree, 3, clip=LONG, noise=3.0)
        await over(tree, first)
        bundle = tree.job(first).created.bundle
        again = (await tree.ask("train.run", bundle=bundle, start=first))["job"]
        await until(lambda: tree.ended(again), 300, "the second job ended")
        assert tree.job(again).advanced.metrics["epsilon"] == pytest.approx(epsilon(3.0, 6))

    grown(story, 1, edges=TREE)


def test_what_is_left_of_a_budget_is_all_that_the_next_job_has():
    """It ends after the rounds that are left; a third one is refused at once, and nothing of it is written."""

    async def story(tree):
        first = await private(tree, 3, clip=LONG, noise=3.0, budget=epsilon(3.0, 5) + 1e-9)
        await over(tree, first)
        bundle = tree.job(first).created.bundle
        again = (await tree.ask("train.run", bundle=bundle, start=first))["job"]
        await until(lambda: tree.ended(again), 300, "the second job ended")
        assert (tree.job(again).round, tree.job(again).ended.reason) == (2, "its privacy budget is spent after round 2")
        with pytest.raises(InvalidJob, match="after what the jobs before it spent"):
            await tree.ask("train.run", bundle=bundle, start=again)
        assert sorted(tree.cloud.writer.state.jobs) == [first, again]

    grown(story, 1, edges=TREE)


def test_a_budget_without_room_for_one_round_is_refused_at_once():
    """The operator hears what a round would cost; nothing is written."""

    async def story(tree):
        with pytest.raises(InvalidJob, match="one round would bring epsilon to"):
            await private(tree, 3, clip=1.0, noise=0.5, budget=1.0)
        assert tree.cloud.writer.state.jobs == {}

    grown(story, 1, edges=TREE)


def test_local_noise_is_in_every_update_and_the_job_ends_with_its_budget():
    """The mean of n noisy updates has 1 / sqrt(n) of a node's noise; each costs what telling two updates apart does."""

    async def story(tree):
        budget = epsilon(1.5, 10) + 1e-9
        job = await private(tree, 50, mode="local", clip=LONG, noise=3.0, budget=budget)
        facts = await over(tree, job)
        assert tree.job(job).ended.reason == "its privacy budget is spent after round 10"
        assert facts[-1].metrics["epsilon"] == pytest.approx(epsilon(1.5, 10))
        noise = []
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            updates = [known_update(job, fact.round, node)[0].astype(np.float64) for node in fact.included]
            noise.append((way - np.mean(updates, axis=0)) * len(updates) ** 0.5)
        drawn = np.concatenate(noise)
        assert drawn.std() == pytest.approx(3.0 * LONG, rel=5 / np.sqrt(2 * drawn.size))

    grown(story, 1, edges=TREE)


@pytest.mark.parametrize("victim", ["", "cloud"])
def test_a_node_that_is_asked_more_often_spends_more_and_is_not_drawn_beyond_its_budget(victim):
    """Two of five a round, three rounds a node: the job ends when fewer are left than it needs, each node's spent
    epsilon is told, and a cloud that is killed forgets none of it.
    """

    async def story(tree):
        budget = epsilon(1.5, 3) + 1e-9
        config = {"sampling": {"count": 2}, "min_nodes": 2}
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        privacy = {"mode": "local", "clip": LONG, "noise": 3.0, "budget": budget}
        job = await tree.train(rounds=50, deadline_s=30.0, quorum=0.5, privacy=privacy, **config)
        if victim:
            await until(lambda: tree.job(job) and tree.job(job).round >= 2, 60, "two rounds")
            tree.sim.crash(victim)
            await asyncio.sleep(1)
            tree.sim.restart(victim)
        facts = await over(tree, job)
        asked = Counter(node for fact in facts for node in fact.included)
        assert max(asked.values()) == 3
        assert tree.job(job).ended.state == "finished"
        assert tree.job(job).ended.reason.startswith(f"its privacy budget is spent after round {len(facts)}")
        assert len([node for node in asked.values() if node < 3]) < 2 or len(asked) < 4
        assert len(facts) > 6  # more rounds than any node was in
        rows = {row["node"]: row for row in await tree.ask("train.nodes", job=job)}
        for node, count in asked.items():
            assert rows[node]["epsilon"] == pytest.approx(epsilon(1.5, count))
        report = await tree.ask("train.report", job=job)
        assert report["epsilon"] == pytest.approx(epsilon(1.5, 3))
        assert report["rounds"][-1]["nodes_spent"] == sum(count == 3 for count in asked.values())

    grown(story, 1, edges=TREE)


def test_a_job_that_goes_on_counts_what_a_node_can_have_spent_at_most():
    """Of a job that was stopped that is a round more than it finished: one may have been open."""

    async def story(tree):
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        privacy = {"mode": "local", "clip": LONG, "noise": 3.0}
        first = await tree.train(rounds=50, deadline_s=30.0, privacy=privacy, sampling={"count": 2})
        await until(lambda: tree.job(first).round >= 4, 60, "some rounds")
        await tree.ask("train.stop", job=first)
        most = max(Counter(node for fact in checkpoints(tree) for node in fact.included).values())
        bundle = tree.job(first).created.bundle
        again = (await tree.ask("train.run", bundle=bundle, start=first))["job"]
        [spent] = tree.job(again).created.spent
        assert spent[3] == most + 1
        assert most < tree.job(first).round

    grown(story, 1, edges=TREE)


class Faulty(SimulatedTrainer):
    """Fails while it is told to."""

    broken = False

    async def train(self, *args, **kwargs):
        if Faulty.broken:
            raise JobFailed("broken for a while")
        return await super().train(*args, **kwargs)


def test_a_triggered_job_after_a_failed_one_goes_on_spending_what_both_before_it_spent(monkeypatch):
    """It starts from the weights of the one that finished; the data have paid for the failed one's rounds too."""

    async def story(tree):
        for name in tree.devices:
            tree.trainers[name] = Faulty(lambda _node, _round: 0.2)
        trigger = {"model": "net", "events": 3, "cooldown_s": 1.0}
        first = await tree.train(
            rounds=3, deadline_s=30.0, privacy={"mode": "central", "clip": LONG, "noise": 3.0}, trigger=trigger
        )
        await until(lambda: tree.ended(first), 300, "the first job ended")

        async def fire(after):
            await asyncio.sleep(2)
            node, numbers = tree.node_id("device-1"), range(after, after + 3)
            await tree.cloud.events.stored([Event(node, n, "device-1", "cam", "net", 1, 1.0, {}) for n in numbers])

        await fire(1)
        jobs = tree.cloud.writer.state.jobs
        await until(lambda: "job-2" in jobs and jobs["job-2"].round >= 1, 60, "the second one is under way")
        monkeypatch.setattr(Faulty, "broken", True)
        await until(lambda: tree.ended("job-2"), 300, "the second job ended")
        monkeypatch.setattr(Faulty, "broken", False)
        failed = tree.job("job-2")
        assert failed.ended.state == "failed"
        assert 1 <= failed.round < 3
        await fire(10)
        await until(lambda: "job-3" in jobs and tree.ended("job-3"), 300, "the third job ended")
        third = tree.job("job-3")
        assert (third.ended.state, third.created.after) == ("finished", first)
        assert third.created.start == tree.job(first).weights
        assert third.created.spent == ((3.0, 0.0, 1, 3), (3.0, 0.0, 1, failed.round))
        assert third.advanced.metrics["epsilon"] == pytest.approx(epsilon(3.0, 3 + failed.round + 3))

    grown(story, 1, edges={"edge-n": 2}, sources=0)
