"""The models of a region as its fronts see them: states, and loading that ends when somebody can answer, or cannot."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import ModelState
from msrt_edge.repository import EdgeModels
from tests.edge.rig import pushed, simulate, until


def states(models):
    return {(row.name, row.version): (row.state, row.reason) for row in models.index()}


async def known(rig, *versions):
    """These are registered, and rolled out nowhere."""
    await rig.cloud.writer.append(*(pushed(version) for version in versions))
    await until(lambda: len(rig.edge.follower.state.models.get("net", ())) == len(versions))
    return EdgeModels(rig.edge)


def asked(rig, method):
    return [params for name, params in rig.cloud.asked if name == method]


async def loading(rig, models, **more):
    """A load on its way, assigned to the device."""
    task = asyncio.ensure_future(models.load("net", **more))
    await until(lambda: rig.d1.placed)
    assert not task.done()
    return task


def test_a_load_ends_when_somebody_can_answer():
    """Not when it is written down, nor while it is loaded."""

    async def scenario(rig):
        models = await known(rig, 1, 2)
        assert states(models)["net", 2] == ("UNAVAILABLE", "not rolled out here")
        task = await loading(rig, models)
        assert rig.d1.placed == [("net", 2, "fp32", True)]
        rig.d1.report(ModelState("net", 2, "fp32", "loading"))
        await until(lambda: states(models)["net", 2] == ("LOADING", "loading"))
        assert not task.done()
        rig.d1.report(("net", 2))
        await task
        assert states(models)["net", 2] == ("READY", "")
        assert states(models)["net", 1] == ("UNAVAILABLE", "nobody here has it")
        assert models.config("net").version == 2
        await models.load("net")  # it is there: nothing is asked of the cloud
        assert len(asked(rig, "model.load")) == 1

    simulate(scenario, devices=("d1",))


def test_a_load_that_fails_says_what_the_device_said():
    """At once, not when the time is over."""

    async def scenario(rig):
        models = await known(rig, 1)
        task = await loading(rig, models)
        rig.d1.report(ModelState("net", 1, "fp32", "failed", "unknown operator Zap"))
        began = rig.edge.world.now()
        with pytest.raises(errors.Unavailable, match="unknown operator Zap"):
            await task
        assert rig.edge.world.now() - began < 5
        assert states(models)["net", 1] == ("UNAVAILABLE", "unknown operator Zap")

    simulate(scenario, devices=("d1",))


def test_one_device_that_fails_does_not_speak_for_the_others():
    """The load ends when the second one has it."""

    async def scenario(rig):
        models = await known(rig, 1)
        task = await loading(rig, models)
        rig.d1.report(ModelState("net", 1, "fp32", "failed", "no room"))
        await until(lambda: states(models)["net", 1] == ("UNAVAILABLE", "no room"))
        await asyncio.sleep(1)
        assert not task.done()
        rig.d2.report(("net", 1))
        await task

    simulate(scenario)


def test_a_load_that_nobody_answers_ends():
    """With the time that it took."""

    async def scenario(rig):
        models = await known(rig, 1)
        with pytest.raises(errors.Unavailable, match="within 30 s"):
            await (await loading(rig, models, version=1))

    simulate(scenario, devices=("d1",))


def test_an_unload_ends_when_nobody_has_it():
    """Until then it is being unloaded."""

    async def scenario(rig):
        models = await known(rig, 1)
        task = await loading(rig, models)
        rig.d1.report(("net", 1))
        await task
        task = asyncio.ensure_future(models.unload("net"))
        await until(lambda: rig.d1.placed == [])
        assert states(models)["net", 1] == ("UNLOADING", "not rolled out here")
        assert not task.done()
        rig.d1.report()
        await task
        assert states(models)["net", 1][0] == "UNAVAILABLE"
        with pytest.raises(errors.NotFound):
            models.config("net")

    simulate(scenario, devices=("d1",))


def test_without_the_cloud_it_is_said_at_once():
    """Loading and unloading; to look needs nobody."""

    async def scenario(rig):
        await rig.serve("d1")
        models = EdgeModels(rig.edge)
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None or not rig.edge.uplink.peer.live)
        began = rig.edge.world.now()
        await models.load("net", 1)  # it is there
        for ask in (models.unload("net"), models.load("other")):
            with pytest.raises(errors.Unavailable, match="cloud is away"):
                await ask
        assert rig.edge.world.now() - began < 1
        assert states(models)["net", 1] == ("READY", "")

    simulate(scenario, devices=("d1",))


def test_statistics_are_of_what_is_known():
    """A version that is ready and was never asked has a row of zeros; what is unknown is an error."""

    async def scenario(rig):
        await rig.serve("d1")
        models = EdgeModels(rig.edge)
        (row,) = models.statistics()
        assert (row.name, row.version, row.success.count) == ("net", 1, 0)
        assert [one.version for one in models.statistics("net", 1)] == [1]
        for model, version in (("nobody", 0), ("net", 9)):
            with pytest.raises(errors.NotFound):
                models.statistics(model, version)

    simulate(scenario, devices=("d1",))
