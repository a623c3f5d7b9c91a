"""The models of the tree as the cloud's fronts see them, and their loading and unloading everywhere."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt_cloud.front import CloudFront
from msrt_cloud.repository import CloudModels
from tests.cloud.rig import device, simulate, until
from tests.runtime.inference.models import mlp


def states(models):
    return {(row.name, row.version): row.state for row in models.index()}


def test_a_load_ends_when_somebody_can_answer_and_an_unload_when_nobody_has_it():
    """By what edges say; twice is no fault, and is said to nobody."""

    async def scenario(rig):
        edge = await rig.edge("edge-n", "north", device("a"))
        await rig.push(mlp())
        models = CloudModels(rig.cloud)
        assert states(models) == {("net", 1): "UNAVAILABLE"}
        task = asyncio.ensure_future(models.load("net"))
        await until(lambda: "net" in rig.cloud.writer.state.rollouts)
        assert not task.done()
        edge.report(device("a", ("net", 1, "loading")))
        await until(lambda: states(models) == {("net", 1): "LOADING"})
        edge.report(device("a", ("net", 1, "ready")))
        await task
        assert states(models) == {("net", 1): "READY"}
        before = rig.cloud.writer.log.offset
        await models.load("net")
        assert rig.cloud.writer.log.offset == before

        task = asyncio.ensure_future(models.unload("net"))
        await until(lambda: states(models) == {("net", 1): "UNLOADING"})
        assert not task.done()
        edge.report(device("a"))
        await task
        assert states(models) == {("net", 1): "UNAVAILABLE"}

    simulate(scenario)


def test_a_load_that_nobody_can_do_says_so():
    """No device at all: at once. A device that failed: with its reason."""

    async def scenario(rig):
        await rig.push(mlp())
        models = CloudModels(rig.cloud)
        with pytest.raises(errors.Unavailable, match="no device is here"):
            await models.load("net")
        edge = await rig.edge("edge-n", "north", device("a"))
        task = asyncio.ensure_future(models.load("net"))
        edge.report(device("a", ("net", 1, "failed")))
        began = rig.cloud.world.now()
        with pytest.raises(errors.Unavailable, match="nobody could load net@1"):
            await task
        assert rig.cloud.world.now() - began < 5
        for ask in (models.load("other"), models.unload("other"), models.load("net", 9)):
            with pytest.raises(errors.NotFound):
                await ask
        with pytest.raises(errors.NotFound):
            models.config("other")
        with pytest.raises(errors.NotFound):
            models.statistics("net", 9)
        assert (models.config("net").version, list(models.statistics())) == (1, [])

    simulate(scenario)


def test_a_cloud_that_starts_is_unavailable_and_not_broken():
    """It listens before its journal is read."""

    async def scenario(rig):
        await rig.push(mlp())
        cloud = rig.cloud
        cloud.ready.clear()
        front, models = CloudFront(cloud), CloudModels(cloud)
        asks = (models.index, lambda: models.config("net"), models.statistics, lambda: front.metadata("net"),
                lambda: front.ready("net"), front.metrics, lambda: front.infer(None))  # fmt: skip
        for ask in asks:
            with pytest.raises(errors.Unavailable, match="is starting"):
                ask()
        for ask in (models.load("net"), models.unload("net"), anext(front.events("", ""))):
            with pytest.raises(errors.Unavailable, match="is starting"):
                await ask
        assert not front.ready()
        cloud.ready.set()
        assert states(models) == {("net", 1): "UNAVAILABLE"}

    simulate(scenario)
