"""Rounds of other kinds than all-at-once: late updates, buffers, a region's own steps, changes instead of weights.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_rounds.py`.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import numpy as np
import pytest

from msrt.errors import Corrupt
from msrt.learning.vector import load
from tests.flows import invariants
from tests.flows.trainer import SIZE, SimulatedTrainer, known_update
from tests.flows.tree import grown, until

SLOW = "edge-n-device-1"
TREE = {"edge-n": 2, "edge-s": 2}


def checkpoints(tree):
    return [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]


def weights(tree, digest):
    return load(tree.cloud.artifacts.blobs.read(digest))[1]


def counted(tree, fact):
    return msgspec.json.decode(tree.cloud.artifacts.blobs.read(fact.counted))


async def ended(tree, **config):
    """Run a job to its end; its checkpoints."""
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    job = await tree.train(**{"deadline_s": 30.0, "quorum": 1.0, **config})
    await until(lambda: tree.ended(job), 300, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended
    return checkpoints(tree)


def slow(tree, seconds, first_only=True):
    """One device takes that long, in the first round or in all."""
    name = min(tree.devices)
    tree.trainers[name] = SimulatedTrainer(lambda _node, round_: seconds if round_ == 1 or not first_only else 0.4)
    return tree.node_id(name)


def _round(tree):
    return tree.cloud.writer.state.jobs["job"].round if tree.cloud and "job" in tree.cloud.writer.state.jobs else 0


def moved(tree, facts):
    """By how much each round moved the weights."""
    before, steps = np.zeros(SIZE, np.float32), []
    for fact in facts:
        now = weights(tree, fact.weights)
        steps.append(now - before)
        before = now
    return steps


def mean(parts):
    """Of (delta, weight) pairs."""
    return sum(delta.astype(np.float64) * weight for delta, weight in parts) / sum(weight for _, weight in parts)


def test_a_late_update_counts_in_the_next_round_at_a_discount(seed):
    """The straggler's first update is in a later round, alone, once, weighed by its age."""

    async def story(tree):
        late = slow(tree, 9.0)
        facts = await ended(tree, rounds=6, quorum=0.5, pace={"late": "next"})
        assert late not in facts[0].included
        rows = tree.cloud.training.report("job")["rounds"]
        assert [row["late"] for row in rows if row["late"]] == [{late: [1]}]
        (at,) = (row["round"] for row in rows if row["late"])
        parts = [known_update("job", at, node) for node in facts[at - 1].included]
        delta, samples = known_update("job", 1, late)
        parts.append((delta, samples * at**-0.5))
        assert np.allclose(moved(tree, facts)[at - 1], mean(parts), atol=1e-4)
        assert counted(tree, facts[-1])[late] >= 1

    grown(story, seed, edges=TREE)


def test_without_late_updates_the_straggler_is_left_out(seed):
    """The default: its update of a closed round is dropped, and it takes part in the next."""

    async def story(tree):
        late = slow(tree, 9.0)
        facts = await ended(tree, rounds=3, quorum=0.5)
        assert late not in facts[0].included
        invariants.check_training(tree)

    grown(story, seed, edges=TREE)


@pytest.mark.parametrize("victim", ["", "cloud", "edge-n"])
def test_buffered_rounds_wait_for_nobody_and_count_everybody_once(victim, seed):
    """FedBuff: nodes go at their own pace, four times as slow or not; each weights change is that of known updates."""

    async def story(tree):
        late = slow(tree, 1.0, first_only=False)
        job = asyncio.ensure_future(ended(tree, rounds=20, deadline_s=60.0, pace={"buffer": 2, "staleness": 20}))
        if victim:
            await until(lambda: _round(tree) >= 3, 60, "three rounds")
            tree.sim.crash(victim)
            await asyncio.sleep(1)
            tree.sim.restart(victim)
        facts = await job
        assert [fact.round for fact in facts] == [*range(1, 21)]
        seen = set()
        rows = tree.cloud.training.report("job")["rounds"]
        for fact, row, way in zip(facts, rows, moved(tree, facts), strict=True):
            here = [(node, fact.round) for node in fact.included]
            here += [(node, round_) for node, rounds in row["late"].items() for round_ in rounds]
            assert not seen.intersection(here)
            assert len(here) >= 2
            seen.update(here)
            parts = [(known_update("job", origin, node), fact.round - origin) for node, origin in here]
            wanted = mean([(delta * (1 + age) ** -0.5, samples) for (delta, samples), age in parts])
            assert np.allclose(way, wanted, atol=1e-4), fact.round
        assert late in {node for node, _ in seen}

    grown(story, seed, edges=TREE)


def test_a_region_does_rounds_of_its_own(seed):
    """Three local steps to one of the cloud: the way of each region is the sum of its steps' means."""

    async def story(tree):
        facts = await ended(tree, rounds=2, pace={"steps": 3})
        regions = [list(tree[edge].device_peers()) for edge in tree.edges]
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            sums = []
            for nodes in regions:
                steps = [mean([known_update("job", turn, node) for node in nodes])
                         for turn in range(3 * fact.round - 2, 3 * fact.round + 1)]  # fmt: skip
                heaviest = sum(
                    max(known_update("job", turn, node)[1] for turn in range(3 * fact.round - 2, 3 * fact.round + 1))
                    for node in nodes
                )
                sums.append((sum(steps), heaviest))
            assert np.allclose(way, mean(sums), atol=1e-4)
            assert set(fact.included) == {tree.node_id(name) for name in tree.devices}

    grown(story, seed, edges=TREE)


def test_an_edge_killed_between_its_own_steps_costs_its_part_of_a_round_at_most(seed):
    """Its devices begin again elsewhere or with it; nobody counts twice, and the job ends."""

    async def story(tree):
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        job = await tree.train(rounds=3, quorum=0.5, deadline_s=30.0, pace={"steps": 4})
        await until(lambda: any(step for step in _steps(tree, job)), 30, "a second step")
        tree.sim.crash("edge-n")
        await asyncio.sleep(1)
        tree.sim.restart("edge-n")
        await until(lambda: tree.ended(job), 300, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        assert set(checkpoints(tree)[-1].included) == {tree.node_id(name) for name in tree.devices}

    grown(story, seed, edges=TREE)


def _steps(tree, job):
    opened = tree["edge-n"].training._open.get(job) if tree["edge-n"] else None
    return [opened.message.plan.step] if opened else []


async def _held(tree, seen, vectors):
    """What each node holds at any time of a job, and the vectors among it."""
    while True:
        for name, digests in seen.items():
            artifacts = tree[name].artifacts
            for digest in {*artifacts.digests()} - digests:
                digests.add(digest)
                if name in tree.devices:
                    with contextlib.suppress(Corrupt):  # it is no vector
                        vectors[digest] = load(artifacts.blobs.read(digest))[1]
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("codec", ["int8", "fp16", "topk:0.1"])
def test_weights_travel_as_what_changed(codec, seed, monkeypatch):
    """After the first round nobody fetches weights: devices add changes, have the bytes that the cloud names, and once
    the job has ended keep none of them."""
    monkeypatch.setattr("msrt.training.weights.CARRIED", 0)  # as if they were large

    async def story(tree):
        seen, vectors = {name: set() for name in [*tree.edges, *tree.devices]}, {}
        compression = {"device": "fp32", "region": "fp32", "down": codec}
        watching = asyncio.get_running_loop().create_task(_held(tree, seen, vectors))
        facts = await ended(tree, rounds=4, compression=compression)
        watching.cancel()
        invariants.check_training(tree)
        served, weighed = facts[-2].served, facts[-2].weights
        assert served
        assert served != weighed
        for name in tree.devices:
            assert served in seen[name], name
            assert weighed not in seen[name]
            await until(lambda name=name: not tree[name].artifacts.has(served), 10, f"{name} has dropped them")
        assert all(facts[-2].chain[-1].delta in digests for digests in seen.values())
        for name in tree.edges:  # who asks for the weights themselves is given the cloud's
            assert served not in seen[name], name
        off = np.abs(vectors[served] - weights(tree, weighed)).max()
        assert off < (0.1 if codec != "topk:0.1" else 3.0)

    grown(story, seed, edges=TREE)


@pytest.mark.parametrize("codec", ["fp32", "int8", "topk:0.1"])
def test_small_weights_ride_with_the_round(codec, seed):
    """Or what changed of them does: nobody fetches anything but the job."""

    async def story(tree):
        compression = {"device": "fp32", "region": "fp32", "down": codec}
        job = await tree.train(rounds=4, quorum=0.5, deadline_s=30.0, compression=compression)
        await until(lambda: tree.job(job).round >= 2, 100, "two rounds")
        gone = min(tree.devices)
        tree.sim.crash(gone)
        await until(lambda: tree.job(job).round >= 3, 100, "a round without it")
        tree.sim.restart(gone)
        await until(lambda: tree.ended(job), 300, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        invariants.check_training(tree)
        others = [name for name in tree.devices if name != gone]  # where changes travel it asks for what it lacks
        for name in [*tree.edges, *tree.devices] if codec == "fp32" else others:
            artifacts = tree[name].artifacts
            kept = [d for d in artifacts.digests() if not artifacts.blobs.read(d).startswith(b'{"signatures"')]
            assert kept in ([], [tree.job(job).created.bundle]), name

    grown(story, seed, edges=TREE)


def test_old_checkpoints_leave_the_disk(seed):
    """As many as the job keeps stay, the newest among them."""

    async def story(tree):
        facts = await ended(tree, rounds=5, checkpoints=2)
        here = [fact.round for fact in facts if tree.cloud.artifacts.has(fact.weights)]
        assert here == [4, 5]
        assert facts[-1].older == (facts[-2].weights,)

    grown(story, seed, edges=TREE)


def test_a_biased_codec_of_a_region_survives_its_edge(seed):
    """What top-k left out of a region's sum is in a later one though the edge died in between."""

    async def story(tree):
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        compression = {"device": "fp32", "region": "topk:0.25", "down": "fp32"}
        job = await tree.train(rounds=6, quorum=1.0, deadline_s=30.0, compression=compression)
        await until(lambda: tree.job(job).round >= 3, 60, "three rounds")
        tree.sim.crash("edge-n")
        await asyncio.sleep(1)
        tree.sim.restart("edge-n")
        await until(lambda: tree.ended(job), 300, "the job ended")
        assert tree.job(job).ended.state == "finished", tree.job(job).ended
        store = tree["edge-n"].training._feedback._store
        await until(lambda: not list(store.scan("")), what="it is forgotten with the job")

    grown(story, seed, edges=TREE)
