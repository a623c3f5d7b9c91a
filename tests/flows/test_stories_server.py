"""The server's optimisers over deaths: their state goes on with the weights, or neither does.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_server.py`.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt.learning.optimise import Optimiser
from msrt.training.settings import ServerSettings
from tests.flows.test_stories_rounds import checkpoints, weights
from tests.flows.trainer import SIZE, known_mean, known_update
from tests.flows.tree import grown, until

ROUNDS = 6
ADAM = {"optimiser": "adam", "lr": 0.1, "schedule": "cosine", "warmup": 2}


async def begun(tree, **config):
    """A job over everybody."""
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    return await tree.train(**{"rounds": ROUNDS, "deadline_s": 60.0, "quorum": 1.0, **config})


async def ended(tree, job):
    await until(lambda: tree.ended(job), 600, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended
    return [fact for fact in checkpoints(tree) if fact.job == job]


def samples(job, fact):
    return {node: known_update(job, fact.round, node)[1] for node in fact.included}


@pytest.mark.parametrize("optimiser", ["momentum", "yogi", "adagrad"])
def test_each_round_is_a_step_of_the_optimiser(optimiser, seed):
    """The weights after every round are those that the optimiser makes of the known means."""

    async def story(tree):
        job = await begun(tree, server={"optimiser": optimiser, "lr": 0.5, "schedule": "step:2:0.5"})
        mine = Optimiser(ServerSettings(optimiser=optimiser).recipe, SIZE)
        wanted = np.zeros(SIZE, np.float32)
        for fact in await ended(tree, job):
            rate = 0.5 * 0.5 ** ((fact.round - 1) // 2)
            mine.step(wanted, known_mean(job, fact.round, samples(job, fact)), rate)
            assert np.allclose(weights(tree, fact.weights), wanted, atol=1e-4), fact.round

    grown(story, seed, edges={"edge-n": 2, "edge-s": 2})


def test_a_killed_cloud_ends_at_the_very_weights_of_an_undisturbed_one(seed):
    """Killed between and within rounds, paused once: every checkpoint of weights and of state has the same digest."""
    runs = []

    def story(*, disturbed):
        async def run(tree):
            job = await begun(tree, server=ADAM, checkpoints=2)
            for number in range(1, ROUNDS - 1) if disturbed else ():
                await until(lambda n=number: tree.job(job).round >= n, 120, "a round")
                await asyncio.sleep(tree.sim.loop.time() % 0.5)
                if number == 2:
                    await tree.insist("train.pause", job=job)
                tree.sim.crash("cloud")
                await asyncio.sleep(1)
                tree.sim.restart("cloud")
                await until(lambda: tree.cloud is not None and tree.cloud.ready.is_set(), 60, "the cloud is back")
                if number == 2:
                    await until(lambda: tree.job(job).held, 10, "it is paused")
                    await tree.insist("train.resume", job=job)
            facts = await ended(tree, job)
            runs.append([(fact.round, fact.weights, fact.memory) for fact in facts])
            assert [tree.cloud.artifacts.has(fact.memory) for fact in facts] == [False] * (ROUNDS - 1) + [True]

        return run

    for disturbed in (False, True):
        grown(story(disturbed=disturbed), seed, edges={"edge-n": 2, "edge-s": 2})
    assert runs[0] == runs[1]
    assert all(memory for _, _, memory in runs[0])


def test_a_job_that_goes_on_from_another_one_begins_with_a_fresh_state(seed):
    """It takes the weights, not the momentum of a way that is over."""

    async def story(tree):
        server = {"optimiser": "momentum", "momentum": 0.5}
        first = (await ended(tree, await begun(tree, server=server, rounds=2)))[-1]
        job = await begun(tree, server=server, rounds=1, name="next", after=first.job)
        (fact,) = await ended(tree, job)
        way = weights(tree, fact.weights) - weights(tree, first.weights)
        assert np.allclose(way, known_mean(job, 1, samples(job, fact)), atol=1e-4)

    grown(story, seed, edges={"edge-n": 2})
