"""Parameter servers in whole trees: every push counted once, bounds kept, whoever is killed.

The gradient of each (job, clock, worker) is known, so the weights show which pushes are in them. A failing seed is
replayed by `MSRT_SEED=n pytest tests/flows/test_stories_parameters.py`.
"""

from __future__ import annotations

import numpy as np

from msrt.learning.vector import load
from tests.flows.trainer import known_update
from tests.flows.tree import grown, until

RATE = 0.5


def weights(tree, job="job"):
    return load(tree.cloud.artifacts.blobs.read(tree.job(job).weights))[1]


async def begin(tree, rounds=2, lr=RATE, **settings):
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    table = {"mode": "sync", "steps": 4, **settings}
    return await tree.train(
        rounds=rounds, min_nodes=len(tree.devices), parameter_server=table, server={"lr": lr}
    )  # fmt: skip


async def finished(tree, job, seconds=300):
    await until(lambda: tree.ended(job), seconds, "the job ended")
    assert tree.job(job).ended.state == "finished", tree.job(job).ended


def mean_step(job, clock, nodes):
    """What a synchronous step adds."""
    parts = [known_update(job, clock, node) for node in nodes]
    total = sum(samples for _, samples in parts)
    return -RATE * sum(gradient.astype(np.float64) * samples for gradient, samples in parts) / total


def test_synchronous_steps_are_those_of_one_process(seed):
    """One edge, two workers: after every clock the weights moved by the mean of exactly that clock's gradients."""

    async def story(tree):
        job = await begin(tree)
        await finished(tree, job)
        nodes = [tree.node_id(name) for name in tree.devices]
        expected = sum(mean_step("job", clock, nodes) for clock in range(8))
        np.testing.assert_allclose(weights(tree), expected, atol=1e-5)

    grown(story, seed, edges={"edge-n": 2}, sources=0)
