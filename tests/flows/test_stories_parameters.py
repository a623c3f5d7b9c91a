"""Parameter servers in whole trees: every push counted once, bounds kept, whoever is killed.

The gradient of each (job, clock, worker) is known, so the weights show which pushes are in them. A failing seed is
replayed by `MSRT_SEED=n pytest tests/flows/test_stories_parameters.py`.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt.hop import parcel
from msrt.learning.optimise import Optimiser
from msrt.learning.vector import load
from msrt.training.settings import ServerSettings
from msrt_cloud.job_views import judged
from tests.flows.trainer import SimulatedTrainer, known_update
from tests.flows.tree import grown, until

RATE = 0.5
TREE = {"edge-n": 2, "edge-s": 2}


def weights(tree, job="job"):
    return load(tree.cloud.artifacts.blobs.read(tree.job(job).weights))[1]


async def begin(tree, rounds=2, server=None, **settings):
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    table = {"mode": "sync", "steps": 4, **settings}
    return await tree.train(
        rounds=rounds, min_nodes=len(tree.devices), parameter_server=table, server=server or {"lr": RATE}
    )  # fmt: skip


async def finished(tree, job, seconds=300):
    await until(lambda: tree.ended(job), seconds, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended


def mean_gradient(job, clock, nodes):
    """Of a synchronous clock."""
    parts = [known_update(job, clock, node) for node in nodes]
    total = sum(samples for _, samples in parts)
    return sum(gradient.astype(np.float64) * samples for gradient, samples in parts) / total


def mean_step(job, clock, nodes):
    """What plain descent adds in it."""
    return -RATE * mean_gradient(job, clock, nodes)


def made_of(tree, clocks, atol=1e-5):
    """The weights are those after so many clocks of everybody, each counted once."""
    nodes = [tree.node_id(name) for name in tree.devices]
    expected = sum(mean_step("job", clock, nodes) for clock in range(clocks))
    np.testing.assert_allclose(weights(tree), expected, atol=atol)


def placed(tree, job="job"):
    return tree.job(job).placed


def clocks(tree, name):
    """Clocks that a worker worked on, in order, over all its lives."""
    trainer = tree.trainers.get(name)
    return [clock for _, clock, _ in trainer.stepped] if trainer else []


def done(tree):
    """The clock of each worker."""
    return {name: max(clocks(tree, name), default=-1) for name in tree.devices}


def far(tree, clock):
    return lambda: min(done(tree).values()) >= clock


async def everyone_pushes(tree, job, rounds, nodes=4):
    """The curves name every round, every worker was in the last one, and its operator sees how much each pushed."""
    rows = tree.cloud.training.report(job)["rounds"]
    assert [row["round"] for row in rows] == list(range(1, rounds + 1))
    assert rows[-1]["nodes"] == nodes
    seen = judged(tree.cloud.training, job, 0, 100)
    assert [row["round"] for row in seen] == [rounds] * nodes
    assert all(row["samples"] > 0 and row["name"] in tree.devices for row in seen)


def test_synchronous_steps_are_those_of_one_process(seed):
    """One edge, two workers: after every clock the weights moved by the mean of exactly that clock's gradients."""

    async def story(tree):
        job = await begin(tree)
        await finished(tree, job)
        made_of(tree, 8)

    grown(story, seed, edges={"edge-n": 2}, sources=0)


def test_shards_on_two_edges_make_one_model(seed):
    """Each edge serves half, to workers of both: the same steps, and every weight that a worker was given is whole."""

    async def story(tree):
        job = await begin(tree)
        await finished(tree, job)
        assert set(placed(tree).owners) == {tree.node_id(edge) for edge in tree.edges}
        nodes = [tree.node_id(name) for name in tree.devices]
        so_far = [np.zeros(64)]
        for clock in range(8):
            so_far.append(so_far[-1] + mean_step("job", clock, nodes))
        np.testing.assert_allclose(weights(tree), so_far[8], atol=1e-5)
        for trainer in tree.trainers.values():
            for _, clock, given in trainer.stepped[:8]:
                np.testing.assert_allclose(given, so_far[clock], atol=1e-5)
        await everyone_pushes(tree, job, 2)

    grown(story, seed, edges=TREE, sources=0)


@pytest.mark.parametrize(
    "settings", [{"optimiser": "momentum", "lr": 0.1}, {"optimiser": "adam", "lr": 0.01, "bias_correction": True}],
    ids=lambda settings: settings["optimiser"],
)  # fmt: skip
def test_optimisers_of_shards_are_those_of_the_whole_model(seed, settings):
    """Momentum and Adam: the same weights as of one optimiser in one process that takes everybody's batches."""

    async def story(tree):
        job = await begin(tree, rounds=3, steps=6, server=settings, snapshot_s=0.5)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        await finished(tree, job)
        recipe = ServerSettings(**settings).recipe
        nodes, expected = [tree.node_id(name) for name in tree.devices], np.zeros(64, np.float32)
        optimiser = Optimiser(recipe, 64)
        for clock in range(18):
            optimiser.step(expected, -mean_gradient("job", clock, nodes).astype(np.float32), settings["lr"])
        np.testing.assert_allclose(weights(tree), expected, atol=1e-5)

    grown(story, seed, edges=TREE, sources=0)


def test_asynchronous_pushes_each_move_the_model_once(seed):
    """By their share of everybody's samples; the weights are the sum of all pushes that the servers have."""

    async def story(tree):
        slow = min(tree.devices)
        tree.trainers[slow] = SimulatedTrainer(lambda _node, _clock: 1.5)
        job = await begin(tree, mode="async", steps=6)
        await finished(tree, job)
        fast = [len(clocks(tree, name)) for name in tree.devices if name != slow]
        assert min(fast) > 2 * len(clocks(tree, slow))
        rows = tree.cloud.training.report(job)["rounds"]
        assert sum(row["pushes"] for row in rows) >= 4 * 12
        assert max(row["gap"] for row in rows) > 4

    grown(story, seed, edges=TREE, sources=0)


def test_stale_synchronous_workers_stay_within_their_bound(seed):
    """However slow one is, none works on a clock more than s ahead of it, and the others are held up by no more."""

    async def story(tree):
        slow = min(tree.devices)
        tree.trainers[slow] = SimulatedTrainer(lambda _node, _clock: 2.0)
        job = await begin(tree, mode="ssp", staleness=3, steps=6, rounds=1)
        seen = []

        async def watch():
            while not tree.ended(job):
                now = {name: len(clocks(tree, name)) for name in tree.devices}
                seen.append(max(now.values()) - now[slow])
                await asyncio.sleep(0.05)

        await watch()
        await finished(tree, job)
        assert 3 <= max(seen) <= 4  # what is counted here is begun, not pushed
        assert tree.cloud.training.report(job)["rounds"][0]["gap"] <= 3

    grown(story, seed, edges=TREE, sources=0)


def test_a_killed_worker_holds_nobody_for_long_and_comes_back(seed):
    """Synchronous: the others go on without it after its lease, and with it once it is back."""

    async def story(tree):
        job = await begin(tree, rounds=3, steps=10)
        await until(far(tree, 3), what="they are at work")
        victim = min(tree.devices)
        tree.sim.crash(victim)
        others = [name for name in tree.devices if name != victim]
        at = max(done(tree).values())
        await until(lambda: min(done(tree)[name] for name in others) > at + 3, 12, "the others go on")
        tree.sim.restart(victim)
        await finished(tree, job)
        assert clocks(tree, victim)[-1] > at
        await everyone_pushes(tree, job, 3)

    grown(story, seed, edges=TREE, sources=0)


def test_a_dead_edges_shards_come_back_elsewhere(seed):
    """From the last checkpoint, under another generation; its devices work on through the other edge."""

    async def story(tree):
        job = await begin(tree, rounds=4, steps=10)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        tree.sim.crash("edge-s")
        await until(lambda: placed(tree).generation == 2, 60, "its shards are placed anew")
        assert set(placed(tree).owners) == {tree.node_id("edge-n")}
        await finished(tree, job)
        await everyone_pushes(tree, job, 4)

    grown(story, seed, edges=TREE, sources=0)


def test_an_edge_that_restarts_goes_on_from_its_own_disk(seed):
    """Nobody else gets its shards, and what it had is not begun anew."""

    async def story(tree):
        job = await begin(tree, rounds=3, steps=10, snapshot_s=1.0)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        tree.sim.crash("edge-s")
        await asyncio.sleep(1.0)
        tree.sim.restart("edge-s")
        await finished(tree, job)
        assert placed(tree).generation == 1
        await everyone_pushes(tree, job, 3)

    grown(story, seed, edges=TREE, sources=0)


def test_an_edge_that_comes_later_takes_its_part_of_the_shards():
    """After a checkpoint, under another generation; everybody works on, and nobody moves a shard back."""

    async def story(tree):
        tree.sim.crash("edge-s")
        await until(lambda: not tree.cloud.fleet.edges[tree.node_id("edge-s")].alive, 60, "it is away")
        job = await begin(tree, rounds=20, steps=10, shards=4)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        assert set(placed(tree).owners) == {tree.node_id("edge-n")}
        tree.sim.restart("edge-s")
        await until(lambda: placed(tree).generation == 2, 60, "its part is given to it")
        owners = [tree.node_id(edge) for edge in tree.edges]
        assert sorted(placed(tree).owners) == sorted(2 * owners)
        await finished(tree, job)
        assert placed(tree).generation == 2
        await everyone_pushes(tree, job, 20)

    grown(story, 1, edges=TREE, sources=0)


def test_nothing_stops_while_the_cloud_is_away(seed):
    """Workers step on, rounds end; the cloud that comes back checkpoints the newest and has a line for each."""

    async def story(tree):
        job = await begin(tree, rounds=8, steps=6)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        tree.sim.crash("cloud")
        at = max(done(tree).values())
        await until(far(tree, at + 15), 60, "they go on")
        tree.sim.restart("cloud")
        await until(lambda: tree.cloud is not None and tree.job(job) is not None, what="the cloud is back")
        await finished(tree, job)
        made_of(tree, 48, 1e-4)
        await everyone_pushes(tree, job, 8)

    grown(story, seed, edges=TREE, sources=0)


def test_rounds_may_end_faster_than_they_are_checkpointed(seed):
    """A round a step, and the last one's model is that of all of them: no snapshot waits behind another for ever."""

    async def story(tree):
        for name in tree.devices:
            tree.trainers[name] = SimulatedTrainer(lambda _node, _clock: 0.02)
        job = await begin(tree, rounds=60, steps=1)
        await finished(tree, job)
        made_of(tree, 60, 1e-4)
        await everyone_pushes(tree, job, 60)

    grown(story, seed, edges=TREE, sources=0)


def test_a_paused_job_lets_its_workers_go_and_goes_on(seed):
    """No step more until it is let go on; then the same steps as if nothing had been."""

    async def story(tree):
        job = await begin(tree, rounds=3, steps=8)
        await until(far(tree, 3), what="they are at work")
        await tree.insist("train.pause", job=job)
        await asyncio.sleep(3.0)
        before = done(tree)
        await asyncio.sleep(5.0)
        assert done(tree) == before
        assert not any(tree[name].jobs.working for name in tree.devices)
        await tree.insist("train.resume", job=job)
        await finished(tree, job)
        await everyone_pushes(tree, job, 3)

    grown(story, seed, edges=TREE, sources=0)


def test_a_stopped_job_leaves_no_shard_and_no_worker(seed):
    """On any edge's disk or in any device."""

    async def story(tree):
        job = await begin(tree, rounds=50, steps=10)
        await until(lambda: tree.job(job).round >= 1, 120, "a checkpoint")
        await tree.insist("train.stop", job=job)
        await until(lambda: not any(tree[name].jobs.working for name in tree.devices), 10, "workers are let go")
        await until(lambda: not any(tree[edge].parameters.serving for edge in tree.edges), 10, "shards are dropped")
        for edge in tree.edges:
            assert not tree[edge].world.disk.store("parameters").scan()

    grown(story, seed, edges=TREE, sources=0)


def test_a_device_that_comes_later_works_too(seed):
    """It enters at the clock of the slowest."""

    async def story(tree):
        late = max(tree.devices)
        tree.sim.crash(late)
        await asyncio.sleep(5.0)
        table = {"mode": "sync", "steps": 20}
        job = await tree.train(rounds=2, min_nodes=3, parameter_server=table, server={"lr": RATE})
        others = [name for name in tree.devices if name != late]
        await until(lambda: min(done(tree)[name] for name in others) > 5, what="they are at work")
        assert tree.node_id(late) not in placed(tree).workers
        tree.sim.restart(late)
        await finished(tree, job)
        assert clocks(tree, late)[0] > 3
        await everyone_pushes(tree, job, 2)

    grown(story, seed, edges=TREE, sources=0)


def test_what_fits_no_packet_goes_as_a_stream(seed, monkeypatch):
    """Pushes and weights, through a neighbour too: the same steps."""
    monkeypatch.setattr(parcel, "HEADER", 1 << 30)

    async def story(tree):
        job = await begin(tree)
        await finished(tree, job)
        made_of(tree, 8)

    grown(story, seed, edges=TREE, sources=0)
