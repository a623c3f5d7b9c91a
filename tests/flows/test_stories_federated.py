"""Stories of nodes that differ: slow ones send what they have, a part of all is asked in each round, controls travel.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_federated.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest

from msrt.world.faults import play, random_schedule
from msrt_cloud.job import RunningJob
from tests.flows import invariants
from tests.flows.test_stories_rounds import _round, ended, slow, weights
from tests.flows.trainer import SIZE, SimulatedTrainer, known_mean, known_update
from tests.flows.tree import grown, until

SLOW_S = 60.0
"""What a straggler would need for all its epochs: twice the deadline."""


@pytest.mark.parametrize("how", [{"pace": {"partial": True}}, {"train": {"within_s": 3.0}}])
def test_a_straggler_that_may_stop_early_is_in_every_round(how, seed):
    """It sends what it has while its region still waits: nobody is lost, and no round lasts until the deadline."""

    async def story(tree):
        slow(tree, SLOW_S, first_only=False)
        facts = await ended(tree, rounds=8, quorum=0.5, **how)
        assert [len(fact.included) for fact in facts] == [len(tree.devices)] * 8
        rows = tree.cloud.training.report("job")["rounds"]
        assert all(0.0 < row["work"] < 1.0 for row in rows)
        assert rows[-1]["seconds"] < 5.0
        invariants.check_training(tree)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 2})


def asked(tree, rounds):
    """Who trained in each round, by the trainers' own books."""
    turns = [(turn, node) for trainer in tree.trainers.values() for node, turn in trainer.trained]
    return [{node for turn, node in turns if turn == number} for number in range(1, rounds + 1)]


@pytest.mark.parametrize("strategy", ["random", "available", "utility"])
def test_a_coordinator_that_dies_asks_the_same_nodes_again(strategy, seed):
    """No round has more nodes than it may ask, before and after two deaths; nobody sits out longer than the bound."""

    async def story(tree):
        sampling = {"strategy": strategy, "count": 3, "fairness": 2}
        job = asyncio.ensure_future(ended(tree, rounds=10, quorum=0.5, sampling=sampling))
        for number in (3, 6):
            await until(lambda due=number: _round(tree) >= due, 60, "it is under way")
            tree.sim.crash("cloud")
            await asyncio.sleep(1.0)
            tree.sim.restart("cloud")
        facts = await job
        turns = asked(tree, 10)
        assert [len(nodes) for nodes in turns] == [3] * 10
        assert all(set(fact.included) <= nodes for fact, nodes in zip(facts, turns, strict=True))
        for name in tree.devices:
            mine = [0, *(number for number, nodes in enumerate(turns, 1) if tree.node_id(name) in nodes), 11]
            assert max(after - before - 1 for before, after in itertools.pairwise(mine)) <= 2, (name, turns)
        assert [row["asked"] for row in tree.cloud.training.report("job")["rounds"]] == [3] * 10
        rows = await tree.ask("train.nodes", job="job")
        assert [row["accuracy"] for row in rows] == pytest.approx([1 - 1 / (row["round"] + 1) for row in rows])
        assert [row["round"] for row in rows] == sorted(row["round"] for row in rows)
        assert {row["name"] for row in rows} == set(tree.devices)
        invariants.check_training(tree)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


def test_a_region_that_dies_costs_nobody_his_turn(seed):
    """Devices that were away are asked as soon as they are back."""

    async def story(tree):
        job = asyncio.ensure_future(ended(tree, rounds=12, quorum=0.5, sampling={"share": 0.5, "fairness": 3}))
        await until(lambda: _round(tree) >= 2, 60, "it is under way")
        tree.sim.crash("edge-s")
        await until(lambda: _round(tree) >= 6, 60, "it goes on")
        tree.sim.restart("edge-s")
        await job
        turns = asked(tree, 12)
        for name in tree.devices:
            last = max(number for number, nodes in enumerate(turns, 1) if tree.node_id(name) in nodes)
            assert 12 - last <= 3, (name, turns)
        invariants.check_training(tree)

    grown(story, seed, edges={"edge-n": 3, "edge-s": 3})


@pytest.fixture
def draws(monkeypatch):
    """By round: who was there at all of its tries, and who was asked in any of them."""
    seen, draw = {}, RunningJob._draw

    async def recorded(self, number, crowd, able, over):
        devices = set(crowd)
        drawn = await draw(self, number, crowd, able, over)
        here, asked = seen.get(number, (devices, set()))
        seen[number] = here & devices, asked | drawn.nodes.keys()
        return drawn

    monkeypatch.setattr(RunningJob, "_draw", recorded)
    return seen


def test_the_bound_holds_over_a_storm(seed, draws):
    """Whoever is cut off, killed or out of disk: nobody who was here sat out more than three rounds in a row."""

    async def story(tree):
        sampling = {"strategy": "utility", "count": 3, "fairness": 3}
        job = asyncio.ensure_future(ended(tree, rounds=15, quorum=0.3, deadline_s=8.0, sampling=sampling))
        await play(tree.sim, random_schedule(tree.sim.rng, tree.names, 12.0, count=4))
        await job
        sat = Counter()
        for number in range(1, 16):
            here, asked = draws[number]
            for node in here - asked:
                sat[node] += 1
                assert sat[node] <= 3, (number, node, draws)
            for node in asked:
                sat[node] = 0
        invariants.check_training(tree)

    grown(story, seed, edges={"edge-n": 4, "edge-s": 3})


class Needy(SimulatedTrainer):
    """The model serves this node badly."""

    async def train(self, *args):
        done = await super().train(*args)
        told = {"loss": self.loss, "seconds": self.lasts(*args[:2])}
        return msgspec.structs.replace(done, samples=20, metrics=done.metrics | told)


def test_utility_asks_those_with_much_to_learn_from_and_slow_ones_in_turn(seed):
    """Two of eight have twenty times the loss: they are in most rounds; the slow one in every fifth at least."""

    async def story(tree):
        names = list(tree.devices)
        for name in names:
            trainer = tree.trainers[name] = Needy(lambda _node, _round, slow=name == names[2]: 3.0 if slow else 0.3)
            trainer.loss = 2.0 if name in names[:3] else 0.1
        sampling = {"strategy": "utility", "count": 4, "fairness": 4}
        await ended(tree, rounds=20, quorum=1.0, pace={"deviations": 0.0}, sampling=sampling)
        turns = [{name for name in names if tree.node_id(name) in nodes} for nodes in asked(tree, 20)]
        count = Counter(name for nodes in turns[6:] for name in nodes)
        others = max(count[name] for name in names[3:])
        assert min(count[name] for name in names[:2]) > others
        assert count[names[2]] < min(count[name] for name in names[:2])
        assert all(any(names[2] in nodes for nodes in turns[at : at + 5]) for at in range(16))

    grown(story, seed, edges={"edge-n": 4, "edge-s": 4})


def test_controls_count_once_whoever_dies(seed):
    """SCAFFOLD with two of five asked in a round: the model moves by their mean, the control by their share of all that
    ever took part, before and after the coordinator's death.
    """

    async def story(tree):
        train = {"algorithm": "scaffold", "momentum": 0.0}
        job = asyncio.ensure_future(
            ended(tree, rounds=8, quorum=0.5, train=train, sampling={"count": 2, "fairness": 3})
        )
        await until(lambda: _round(tree) >= 3, 60, "it is under way")
        tree.sim.crash("cloud")
        await asyncio.sleep(1.0)
        tree.sim.restart("cloud")
        before, known, half = np.zeros(SIZE, np.float32), {}, SIZE // 2
        for fact in await job:
            included = {node: known_update("job", fact.round, node)[1] for node in fact.included}
            mean = known_mean("job", fact.round, included)
            old = sum(known.values())
            known |= included
            after, share = sum(known.values()), sum(included.values())
            now = weights(tree, fact.weights)
            assert np.allclose(now[:half], before[:half] + mean[:half], atol=1e-4), fact.round
            assert np.allclose(now[half:], (old * before[half:] + share * mean[half:]) / after, atol=1e-4), fact.round
            before = now
        assert len(known) == len(tree.devices)

    grown(story, seed, edges={"edge-n": 3, "edge-s": 2})


def test_a_late_update_counts_where_others_are_asked(seed):
    """Two of eight are asked in a round: a straggler's update is in a later one, once, and it forgets it then."""

    async def story(tree):
        late = slow(tree, 2.5)
        sampling, pace = {"count": 2, "fairness": 7}, {"late": "next", "staleness": 12}
        tree.trainers[min(tree.devices)].lasts = lambda _node, _round: 2.5
        facts = await ended(tree, rounds=30, quorum=0.3, sampling=sampling, pace=pace)
        rows = tree.cloud.training.report("job")["rounds"]
        counted = {
            (node, round_): row["round"] for row in rows for node, done in row["late"].items() for round_ in done
        }
        assert {node for node, _ in counted} == {late}
        once = [number for number, fact in enumerate(facts, 1) if late in fact.included] + [n for _, n in counted]
        assert len(once) == len(set(once))
        await until(lambda: not tree[min(tree.devices)].jobs.training._kept, 10, "it heard that the job is over")

    grown(story, seed, edges={"edge-n": 4, "edge-s": 4})
