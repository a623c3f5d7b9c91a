"""Models of single nodes: made on the node, placed on it alone, their bytes nowhere else."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from msrt import errors
from msrt.training.trainer import Export
from tests.flows.trainer import SimulatedTrainer
from tests.flows.tree import grown, model_file, until

OWN = model_file(2)


@pytest.fixture(autouse=True)
def _real_models(monkeypatch):
    """Workshop and nodes make files that an engine runs; a node's is another one."""

    async def export(self, weights, within):
        return Export(onnx=model_file(1))

    async def personal(self, weights, most, within):
        return most, OWN

    monkeypatch.setattr(SimulatedTrainer, "export", export)
    monkeypatch.setattr(SimulatedTrainer, "personal", personal)


async def trained(tree, **config):
    """A job that is over."""
    await until(lambda: len(list(tree.cloud.fleet.living())) == len(tree.devices), what="the cloud sees everyone")
    job = await tree.train(**config)
    await until(lambda: tree.ended(job), 120, "the job ended")
    return job


@pytest.mark.slow
def test_a_nodes_own_model_serves_on_that_node_and_its_bytes_stay_there():
    """Neither cloud nor edge hold its file; another device cannot be made to run it; after a crash it serves again."""

    async def story(tree):
        job = await trained(tree, train={"keep_local": ["head.*"]})
        told = await tree.ask("train.serve", 60.0, job=job, node="device-2")
        assert (told["model"], told["version"], told["matching"], told["node"]) == ("job-device-2", 1, 1, "device-2")
        await until(lambda: tree.ready("job-device-2", 1, ["device-2"]), 60, "it serves there")
        digest = hashlib.sha256(OWN).hexdigest()
        holders = {name for name in tree.names if tree[name].artifacts.has(digest)}
        assert (told["digest"], holders) == (digest, {"device-2"})
        tree.sim.crash("device-2")
        tree.sim.restart("device-2")
        await until(lambda: tree.ready("job-device-2", 1, ["device-2"]), 60, "it serves there again")
        await tree.ask("model.rollout", model="job-device-2", selector="")
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 60
        while (await tree.ask("model.rollout.status", model="job-device-2"))["state"] != "done":
            assert loop.time() < until_s
            await asyncio.sleep(0.2)
        assert [name for name in tree.devices if tree[name].slots.serving("job-device-2")] == ["device-2"]

    grown(story, edges={"edge-n": 2}, sources=0)


def test_a_nodes_own_layers_leave_it_when_they_are_asked_for_and_not_else():
    """`train export --node` brings them part by part; without a node such a job has no model to export."""

    async def story(tree):
        job = await trained(tree, train={"keep_local": ["head.*"]})
        with pytest.raises(errors.Conflict, match="a model of job of its own"):
            await tree.ask("train.export", job=job)
        made = await tree.ask("train.export", 60.0, job=job, node="device-1")
        part = await tree.ask("train.part", digest=made["digest"], node="device-1")
        assert part["data"] == OWN
        with pytest.raises(errors.Forbidden):
            await tree.ask("train.part", digest=tree.job(job).weights, node="device-1")

    grown(story, edges={"edge-n": 2}, sources=0)


def test_the_model_that_all_share_is_exported_by_the_cloud():
    """While the job runs as well as after it; of a node there is none."""

    async def story(tree):
        job = await trained(tree)
        made = await tree.ask("train.export", 60.0, job=job)
        part = await tree.ask("train.part", digest=made["digest"])
        assert (part["data"], made["round"]) == (model_file(1), 2)
        with pytest.raises(errors.Conflict, match="the same on all nodes"):
            await tree.ask("train.serve", job=job, node="device-1")
        with pytest.raises(errors.NotFound, match="was not exported"):
            await tree.ask("train.part", digest=tree.job(job).weights)

    grown(story, edges={"edge-n": 2}, sources=0)
