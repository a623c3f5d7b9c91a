"""Devices that lie within what the guard lets through: clipping and robust rules keep the model where it belongs.

A failing seed is replayed by `MSRT_SEED=n pytest tests/flows/test_stories_robust.py`.
"""

from __future__ import annotations

import asyncio

import numpy as np

from tests.flows.test_bad_updates import LyingTrainer, times
from tests.flows.test_stories_rounds import mean, moved
from tests.flows.test_stories_server import begun, ended
from tests.flows.trainer import SimulatedTrainer, known_update
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
