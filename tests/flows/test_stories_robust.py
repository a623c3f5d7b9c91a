"""Devices that lie within what the guard lets through: clipping and robust rules keep the model where it belongs.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_robust.py`.
"""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt.learning.compress import open_codec
from msrt.learning.rules import Robust, open_rule
from msrt.world.faults import play, random_schedule
from tests.flows.test_bad_updates import LyingTrainer, of, times
from tests.flows.test_stories_rounds import checkpoints, mean, moved
from tests.flows.test_stories_server import begun, ended
from tests.flows.trainer import SIZE, SimulatedTrainer, known_update
from tests.flows.tree import grown, until

CLIP = 3.0


def clipped(vector, most=CLIP):
    """No longer than that."""
    return vector * min(1.0, most / float(np.linalg.norm(vector)))


def test_no_update_is_longer_than_the_clip_however_it_travels(seed):
    """In a region's sum, and alone after the death of the edge it was stamped by: a liar pulls no more than anybody."""

    async def story(tree):
        tree.trainers["device-1"] = LyingTrainer(times(-8.0))
        tree.trainers["device-2"] = SimulatedTrainer(lambda _node, _round: 2.0)
        job = await begun(tree, rounds=3, quorum=1.0, aggregate={"clip": CLIP})
        await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] > 0, 60, "an update is in a sum")
        tree.sim.crash("edge-n")
        await asyncio.sleep(1)
        tree.sim.restart("edge-n")
        facts = await ended(tree, job)
        liar = tree.node_id("device-1")
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            parts = []
            for node in fact.included:
                delta, samples = known_update(job, fact.round, node)
                parts.append((clipped(delta * (-8.0 if node == liar else 1.0)), samples))
            assert liar in fact.included
            assert np.allclose(way, mean(parts), atol=1e-4), fact.round

    grown(story, seed, edges={"edge-n": 2, "edge-s": 2})


RULES = ("median", "trimmed:0.2", "krum:1", "multi-krum:1:2", "bulyan:1")
LIES = {
    "large": times(10.0),
    "turned round": times(-6.0),
    "random": lambda done: msgspec.structs.replace(
        done, payload=of(np.random.default_rng(7).standard_normal(SIZE) * 4)
    ),
}


def agreed(job, round_):
    """What all honest nodes have learned in a round, but for a little noise."""
    return known_update(job, round_, "all")[0]


def honest(job, round_, node):
    """One node's update."""
    return agreed(job, round_) + known_update(job, round_, node)[0] / np.float32(16)


class AgreeingTrainer(LyingTrainer):
    """Sends what all honest nodes have learned, with a little noise, or what a lie makes of it."""

    async def train(self, node, round_, *how):
        lie, self.lie = self.lie, lambda done: done
        done = await super().train(node, round_, *how)
        self.lie = lie
        return lie(msgspec.structs.replace(done, payload=of(honest(self.config.name, round_, node.id))))


def agreeing(tree, lies):
    """Everybody is honest but for these."""
    for name in tree.devices:
        tree.trainers[name] = AgreeingTrainer(lies.get(name, lambda done: done))


def farthest(tree, facts, job):
    """How far the model was moved from where all the honest would have it, of the length of that way; worst round."""
    off = []
    for fact, way in zip(facts, moved(tree, facts), strict=True):
        wanted = np.mean([honest(job, fact.round, tree.node_id(name)) for name in tree.devices], axis=0)
        off.append(float(np.linalg.norm(way - wanted) / np.linalg.norm(wanted)))
    return max(off)


@pytest.mark.parametrize("lie", LIES)
def test_a_rule_stays_with_the_honest_where_the_mean_is_dragged_away(lie):
    """One of seven sends what is large, turned round or random: every rule in turn, on the cloud and in regions."""

    async def story(tree):
        agreeing(tree, {"device-2": LIES[lie]})
        server = {"rounds": 2, "quorum": 1.0}
        job = await begun(tree, **server)
        assert farthest(tree, await ended(tree, job), job) > 0.5
        for rule in RULES:
            for tier in ("cloud", "region"):
                job = await begun(tree, name=f"{rule.replace(':', '-').replace('.', '-')}-{tier}",
                                  aggregate={"rule": rule, "tier": tier}, **server)  # fmt: skip
                facts = await ended(tree, job)
                assert {len(fact.included) for fact in facts} == {7}
                assert farthest(tree, facts, job) < 0.1, (rule, tier)

    grown(story, edges={"edge-n": 4, "edge-s": 3})


def robust_mean(rule, updates):
    """Straight through the rule, in one process."""
    codec, found = open_codec("fp32", SIZE), Robust(open_rule(rule), SIZE)
    for update in updates:
        found.add(codec.encode(update.astype(np.float32)), codec, 1.0)
    return found.mean()


@pytest.mark.parametrize("victim", ["", "cloud", "edge-n"])
@pytest.mark.parametrize("rule", ["median", "bulyan:1"])
def test_the_cloud_applies_a_rule_to_all_updates_exactly(rule, victim, seed):
    """Whoever dies meanwhile: each round's way is the rule of the known updates of whom it says it included."""

    async def story(tree):
        tree.trainers["device-2"] = SimulatedTrainer(lambda _node, _round: 2.0)
        job = await begun(tree, rounds=3, aggregate={"rule": rule})
        if victim:
            await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] > 0, 60, "an update came")
            tree.sim.crash(victim)
            await asyncio.sleep(1)
            tree.sim.restart(victim)
        facts = await ended(tree, job)
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            updates = [known_update(job, fact.round, node)[0] for node in fact.included]
            assert len(updates) == len(tree.devices)
            assert np.allclose(way, robust_mean(rule, updates), atol=1e-4)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


def test_regions_apply_a_rule_and_the_cloud_weighs_them_by_their_devices(seed):
    """The mean of the regions' medians; samples count for nothing."""

    async def story(tree):
        job = await begun(tree, rounds=2, aggregate={"rule": "median", "tier": "region"})
        facts = await ended(tree, job)
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            parts = []
            for edge in tree.edges:
                mine = [tree.node_id(name) for name, home in tree.devices.items() if home == edge]
                parts.append(
                    (robust_mean("median", [known_update(job, fact.round, node)[0] for node in mine]), len(mine))
                )
            assert np.allclose(way, mean(parts), atol=1e-4)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


def test_what_a_dead_edge_leaves_is_not_believed(seed):
    """Updates that carry its stamp come to another edge, which is not asked to trust them: it goes on without them."""

    async def story(tree):
        tree.trainers["device-4"] = SimulatedTrainer(lambda _node, round_: 100.0 if round_ == 1 else 0.4)
        job = await begun(tree, rounds=2, quorum=0.4, deadline_s=20.0, aggregate={"rule": "median", "tier": "region"})
        await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] == 3, 60, "three of four came")
        tree.sim.crash("edge-n")
        facts = await ended(tree, job)
        south = {tree.node_id(name) for name, home in tree.devices.items() if home == "edge-s"}
        assert set(facts[0].included) == south
        assert set(facts[1].included) == {tree.node_id(name) for name in tree.devices}
        parts = [(robust_mean("median", [known_update(job, 2, node)[0] for node in facts[1].included]), 1)]
        assert np.allclose(moved(tree, facts)[1], mean(parts), atol=1e-4)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


def test_a_round_of_regions_that_was_given_up_is_taken_update_by_update(seed):
    """An edge dies with what it had, and all must be in: the next try asks for every update alone, and has them all."""

    async def story(tree):
        tree.trainers["device-4"] = SimulatedTrainer(lambda _node, _round: 3.0)
        job = await begun(tree, rounds=2, quorum=1.0, deadline_s=8.0, aggregate={"rule": "median", "tier": "region"})
        await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] == 3, 60, "three of four came")
        tree.sim.crash("edge-n")
        await asyncio.sleep(1)
        tree.sim.restart("edge-n")
        facts = await ended(tree, job)
        everybody = {tree.node_id(name) for name in tree.devices}
        assert [set(fact.included) for fact in facts] == [everybody] * 2
        updates = [known_update(job, 1, node)[0] for node in everybody]
        assert np.allclose(moved(tree, facts)[0], robust_mean("median", updates), atol=1e-4)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


@pytest.mark.parametrize("full", ["cloud", "edge-n"])
def test_updates_wait_for_room_to_wait_on(full):
    """Where the disk is full an update is not taken; its device sends it again, and all of them count."""

    async def story(tree):
        tier = "cloud" if full == "cloud" else "region"
        job = await begun(tree, rounds=2, aggregate={"rule": "median", "tier": tier})
        await until(lambda: tree["edge-n"].training.progress.get(job), 60, "the round is open")
        tree.sim.disk_full(full, True)
        await asyncio.sleep(5)
        assert tree.job(job).round == 0
        tree.sim.disk_full(full, False)
        facts = await ended(tree, job)
        assert [len(fact.included) for fact in facts] == [7, 7]
        assert b"fate.gave_up" not in tree.sim.log_bytes()

    grown(story, edges={"edge-n": 4, "edge-s": 3})


def test_a_job_waits_for_as_many_devices_as_its_rule_needs(seed):
    """And says so."""

    async def story(tree):
        job = await begun(tree, aggregate={"rule": "bulyan:1"})
        await asyncio.sleep(5)
        (row,) = tree.cloud.training.rows(job)
        assert row["reason"] == "waiting for 7 devices, 4 are here (aggregate.rule = bulyan:1)"

    grown(story, seed, edges={"edge-n": 2, "edge-s": 2})


@pytest.mark.parametrize("tier", ["cloud", "region"])
def test_random_faults_leave_each_round_the_exact_word_of_its_rule(tier, seed):
    """Kills, stops, cuts and full disks for a while: on the cloud each way is the rule of all it names; with regions it
    lies within what those nodes said, coordinate by coordinate.
    """

    async def story(tree):
        job = await begun(tree, rounds=8, quorum=0.5, deadline_s=12.0, aggregate={"rule": "median", "tier": tier})
        names = ["cloud", *tree.edges, *tree.devices]
        await play(tree.sim, random_schedule(tree.sim.rng, names, 25.0, count=5))
        await until(lambda: tree.ended(job), 600, "the job ended")
        facts = [fact for fact in checkpoints(tree) if fact.job == job]
        assert facts
        for fact, way in zip(facts, moved(tree, facts), strict=True):
            updates = np.stack([known_update(job, fact.round, node)[0] for node in fact.included])
            assert len(updates) >= 3
            if tier == "cloud":
                assert np.allclose(way, robust_mean("median", updates), atol=1e-4), fact.round
            assert (way >= updates.min(axis=0) - 1e-4).all(), fact.round
            assert (way <= updates.max(axis=0) + 1e-4).all(), fact.round

    grown(story, seed, edges={"edge-n": 4, "edge-s": 4}, limit=1500.0)
