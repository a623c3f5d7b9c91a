"""Stories of nodes that differ: slow ones send what they have, a part of all is asked in each round.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_federated.py`.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.flows import invariants
from tests.flows.test_stories_rounds import _round, ended, slow
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
