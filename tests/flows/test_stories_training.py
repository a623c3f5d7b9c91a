"""Named scenarios of training: who dies mid-round, and that each update is counted once all the same."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows import invariants
from tests.flows.trainer import SimulatedTrainer
from tests.flows.tree import grown, until

SLOW_S = 4.0


@pytest.mark.parametrize("victim", ["edge-n", "cloud"])
def test_a_master_killed_mid_round_counts_nothing_twice(victim):
    """Some updates were delivered and some not when it died; every round is the known mean of the nodes it names."""

    async def story(tree):
        for number, name in enumerate(tree.devices):
            seconds = SLOW_S if number % 3 == 2 else 0.4
            tree.trainers[name] = SimulatedTrainer(lambda _node, _round, seconds=seconds: seconds)
        await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
        job = await tree.train(rounds=2, deadline_s=30.0, quorum=1.0)
        await until(lambda: tree["edge-n"].training.progress.get(job, (0, 0, 0))[1] == 2, what="two of three came")
        tree.sim.crash(victim)
        await asyncio.sleep(1)
        tree.sim.restart(victim)
        await until(lambda: tree.ended(job), 120, "the job ended")
        assert tree.job(job).ended.state == "finished"
        rounds = [fact for fact in invariants.entries(tree) if type(fact).__name__ == "JobAdvanced"]
        assert [fact.round for fact in rounds] == [1, 2]
        least = 3 if victim == "cloud" else 6  # it begins again with whom it sees by then: one region at least
        assert len(rounds[0].included) >= least, rounds[0].included
        assert all(tree.trainers[name].trained for name in tree.devices)
        invariants.check_training(tree)

    grown(story)
