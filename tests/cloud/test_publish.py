"""A finished job's model goes through the same gate as everybody's."""

from __future__ import annotations

import io

import numpy as np

from msrt.training.trainer import Export
from tests.cloud.jobs import Region, bundle
from tests.cloud.models import blobs, classifier
from tests.cloud.rig import simulate, until
from tests.flows.trainer import SimulatedTrainer


class Exports(SimulatedTrainer):
    """Its model knows `blobs`; `onnx` and `turn` (labels moved) make it worse."""

    def __init__(self, onnx=None, turn=0):
        super().__init__()
        self.onnx, self.turn = onnx or classifier(), turn

    async def export(self, _weights, within):
        x, y = blobs()
        calibration, evaluation = io.BytesIO(), io.BytesIO()
        np.save(calibration, x)
        np.savez(evaluation, x=x, y=(y + self.turn) % 4)
        return Export(self.onnx, calibration.getvalue(), evaluation.getvalue())


def finished(scenario, publish, **workshop):
    """Run one round of a job that publishes, then `scenario(cloud, ended)`."""

    async def run(rig):
        north = await Region(rig, "ab").join()
        tail = "[publish]\n" + publish
        digest = await rig.operator.upload(bundle(rounds=1, tail=tail))
        job = (await rig.operator.ask("train.run", bundle=digest))["job"]
        await north.round(job, 1)
        state = rig.cloud.writer.state
        await until(lambda: state.jobs[job].ended, 300)
        await scenario(rig.cloud, state.jobs[job].ended)

    simulate(run, workshop=lambda _job: Exports(**workshop))


def test_the_model_is_judged_and_registered():
    """With the task's own calibration and evaluation data; the report of the job says as what."""

    async def scenario(cloud, ended):
        assert ended.state == "finished"
        published = cloud.training.report("job")["published"]
        assert (published["model"], published["version"]) == ("blobs", 1)
        assert published["report"]["accuracy_fp32"] > 0.9
        assert cloud.writer.state.rollouts == {}

    finished(scenario, 'model = "blobs"\nmax_drop = 0.02\n')


def test_it_goes_out_to_those_it_is_for():
    """Canary first, where the job asks for it."""

    async def scenario(cloud, _ended):
        fact = cloud.writer.state.rollouts["blobs"]
        assert (fact.version, fact.canary, fact.selector, fact.state) == (1, "north", "site=a", "canary")

    finished(scenario, 'model = "blobs"\nmax_drop = 0.02\nrollout = true\ncanary = "north"\nto = "site=a"\n')


def test_a_model_that_is_none_fails_the_job_and_registers_nothing():
    """The trained weights are kept: only the publishing failed, and the reason is the gate's."""

    async def scenario(cloud, ended):
        assert ended.state == "failed"
        assert "ONNX" in ended.reason
        assert cloud.writer.state.models == {}
        assert cloud.writer.state.rollouts == {}
        assert cloud.writer.state.jobs["job"].weights

    finished(scenario, 'model = "blobs"\nrollout = true\n', onnx=b"this is no model")


def test_a_job_may_not_choose_its_version():
    """The registry counts."""

    async def scenario(cloud, ended):
        assert ended.state == "failed"
        assert "versions are given by the registry" in ended.reason
        assert cloud.writer.state.models == {}

    finished(scenario, 'model = "blobs@7"\n')
