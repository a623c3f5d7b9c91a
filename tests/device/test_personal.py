"""A device's own model of a job: made there, kept there, given away only part by part to who asks for just that."""

from __future__ import annotations

import pytest

from msrt import errors
from tests.device.rig import digest, simulate, until
from tests.device.test_training import Job, Trainers
from tests.flows.trainer import SimulatedTrainer


@pytest.fixture
def bundle(tmp_path):
    from msrt.training.bundle import pack  # noqa: PLC0415 - beside its use

    (tmp_path / "job.toml").write_text('name = "job"\ntask = "none:Nothing"\n')
    return pack(tmp_path).data


async def trained(rig, bundle):
    """A round of the job is trained; what the cloud then asks with."""
    from msrt.trust.identity import Purpose  # noqa: PLC0415 - beside its use
    from tests.runtime.hop.tree import CLOUD  # noqa: PLC0415

    job = Job(rig, bundle)
    await job.open(1)
    await until(job.updates)
    weights = digest(await SimulatedTrainer().initial(1))
    signature = CLOUD.sign(digest(bundle).encode(), Purpose.BUNDLE)
    return {"job": "job", "bundle": digest(bundle), "signature": signature, "weights": weights, "most": 1}


def test_a_node_makes_its_model_and_keeps_it_over_a_restart(bundle):
    """It lies on its disk, pinned; the answer names it and holds none of it."""

    async def scenario(rig):
        asked = await trained(rig, bundle)
        made = await rig.edge.peer.call("personal", asked, 10.0)
        assert (made["round"], rig.device.artifacts.size(made["digest"])) == (1, made["size"])
        assert set(made) == {"digest", "size", "round"}
        assert made["digest"] not in rig.edge.artifacts.digests()
        rig.sim.crash("d")
        rig.sim.restart("d")
        await until(lambda: rig.device is not None and rig.joined() and rig.device.uplink.peer is not None)
        part = await rig.edge.peer.call("personal.part", {"digest": made["digest"]}, 10.0)
        assert digest(part["data"]) == made["digest"]
        assert part["size"] == made["size"]

    simulate(scenario, trainer=Trainers())


def test_nothing_else_of_its_disk_is_given_away_like_that(bundle):
    """Weights, bundles and models of others are refused, and so is a question that is none."""

    async def scenario(rig):
        asked = await trained(rig, bundle)
        with pytest.raises(errors.Forbidden, match="no model that this node made"):
            await rig.edge.peer.call("personal.part", {"digest": asked["bundle"]}, 10.0)
        with pytest.raises(errors.CallerError, match="most"):
            await rig.edge.peer.call("personal", asked | {"most": "all"}, 10.0)

    simulate(scenario, trainer=Trainers())


def test_a_job_that_nobody_vouches_for_is_not_started(bundle):
    """What runs in its process is code."""

    async def scenario(rig):
        asked = await trained(rig, bundle)
        with pytest.raises(errors.MsrtError, match="signature"):
            await rig.edge.peer.call("personal", asked | {"job": "other", "signature": bytes(64)}, 10.0)

    simulate(scenario, trainer=Trainers())


def test_a_device_that_does_not_train_says_so():
    """It has no model of its own."""

    async def scenario(rig):
        with pytest.raises(errors.NotFound, match="does not train"):
            await rig.edge.peer.call("personal", {}, 10.0)

    simulate(scenario)
