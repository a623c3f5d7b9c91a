"""What an operator says of how models are served, what comes back of shadows, and inference in the cloud itself."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt import errors
from msrt.dispatch.mirror import Report
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, TensorSpec
from msrt.serving.backend import InferRequest
from msrt_cloud.front import CloudFront
from tests.cloud.rig import device, simulate, until
from tests.runtime.inference.models import mlp

X = TensorSpec("x", "FP32", (1, 4))


def asks(model="net", timeout=5.0, **more):
    return InferRequest(model, (X,), (np.ones((1, 4), np.float32).tobytes(),), timeout, **more)


async def say(rig, model="net", **change):
    return await rig.operator.ask("model.policy", model=model, change=change)


def test_a_policy_is_changed_field_by_field_and_written_down():
    """What is not named stays; nothing is written where nothing changes; reset begins anew."""

    async def scenario(rig):
        await rig.push(mlp())
        assert (await say(rig))["cache_bytes"] == 0
        await say(rig, cache_bytes=1 << 20)
        found = await say(rig, overflow=False)
        assert (found["model"], found["cache_bytes"], found["overflow"]) == ("net", 1 << 20, False)
        offset = rig.cloud.writer.log.offset
        await say(rig, overflow=False)
        assert rig.cloud.writer.log.offset == offset
        found = await rig.operator.ask("model.policy", model="net", change={"priority": 1}, reset=True)
        assert (found["cache_bytes"], found["overflow"], found["priority"]) == (0, True, 1)
        assert rig.cloud.writer.state.policies["net"].priority == 1

    simulate(scenario)


@pytest.mark.parametrize(
    ("model", "change", "error", "word"),
    [
        ("other", {"cache_bytes": 1}, errors.NotFound, "other"),
        ("net", {"cache_bites": 1}, errors.CallerError, "cache_bites"),
        ("net", {"cache_bytes": -1}, errors.CallerError, "cache_bytes"),
        ("net", {"escalate_budget": 1.5}, errors.CallerError, "escalate_budget"),
        ("net", {"shadow": 9}, errors.NotFound, "version 9"),
        ("net", {"escalate_to": "other"}, errors.NotFound, "other"),
        ("net", {"escalate_to": "net"}, errors.CallerError, "goes round"),
        ("net", {"escalate_to": "big"}, errors.CallerError, "net -> big -> net"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_name(model, change, error, word):
    """And the one in force stays."""

    async def scenario(rig):
        await rig.push(mlp())
        await rig.push(mlp(seed=2), name="big")
        await say(rig, "big", escalate_to="net")
        with pytest.raises(error, match=word):
            await say(rig, model, **change)
        assert "net" not in rig.cloud.writer.state.policies

    simulate(scenario)


def test_shadow_reports_of_all_edges_add_up():
    """An edge that is silent or answers nonsense is left out."""

    async def scenario(rig):
        await rig.push(mlp())
        await rig.push(mlp(seed=2))
        with pytest.raises(errors.NotFound, match="no shadow"):
            await rig.operator.ask("model.shadow", model="net")
        await say(rig, shadow=2)
        for name, region in (("e1", "north"), ("e2", "south"), ("e3", "east")):
            edge = await rig.edge(name, region)
            report = Report("net", 2)
            report.compared(np.eye(3), np.eye(3), 0.001, 0.002)

            async def called(_peer, method, _params, name=name, report=report):
                assert method == "model.shadow"
                return "nonsense" if name == "e3" else [msgspec.to_builtins(report.view(1))]

            edge.called = called
        [row] = await rig.operator.ask("model.shadow", model="net")
        assert (row["copies"], row["agreement"], row["dropped"], row["edges"]) == (2, 1.0, 2, 2)
        assert await rig.operator.ask("model.shadow") == [row]

    simulate(scenario)


async def rolled(rig, **more):
    await rig.push(mlp())
    await rig.operator.ask("model.rollout", model="net", selector="tier=cloud", **more)
    await until(lambda: rig.cloud.serving._own("net"))


def test_a_model_for_the_cloud_runs_there():
    """By HTTP and for edges; the rollout goes through by what the engine says of itself."""

    async def scenario(rig):
        await rolled(rig)
        front = CloudFront(rig.cloud)
        assert front.ready("net")
        found = await front.infer(asks())
        assert (found.device, found.version, found.marks["answered_by"]) == ("cloud", 1, "cloud")
        edge = await rig.edge("e1", "north")
        edge.peer.send(Infer((7,), (1,), "net", (X,), hops=1), (bytes(16),))
        await until(lambda: edge.said(Inferred))
        [answer] = edge.said(Inferred)
        assert (answer.ids, answer.device, answer.marks) == ((7,), "cloud", {"answered_by": "cloud"})
        with pytest.raises(errors.InvalidTensor):
            await front.infer(msgspec.structs.replace(asks(), frames=(b"",)))

        async def done():
            return (await rig.operator.ask("model.rollout.status", model="net"))["state"] == "done"

        for _ in range(100):
            if await done():
                break
            await asyncio.sleep(0.1)
        assert await done()

    simulate(scenario)


def test_what_the_cloud_does_not_run_goes_to_an_edge_that_has_it():
    """Never back to who asked, and not when it came over two masters already."""

    async def scenario(rig):
        await rig.push(mlp())
        one = await rig.edge("e1", "north", device("a", ("net", 1, "ready")))
        await rig.edge("e2", "south", device("b"))
        waiting = asyncio.ensure_future(CloudFront(rig.cloud).infer(asks()))
        await until(lambda: one.said(Infer))
        [asked] = one.said(Infer)
        assert (asked.model, asked.hops) == ("net", 1)
        one.peer.send(
            Inferred(asked.ids, (1,), "net", 1, "fp32", "a", (TensorSpec("y", "FP32", (1, 3)),)), (bytes(12),)
        )
        found = await waiting
        assert (found.device, found.marks) == ("a", {"region": "north"})
        one.peer.send(Infer((7,), (1,), "net", (X,), hops=1), (bytes(16),))
        await until(lambda: one.said(InferFailed))
        assert (one.said(InferFailed)[0].code, len(one.said(Infer))) == ("unavailable", 1)
        with pytest.raises(errors.Unavailable):
            await rig.cloud.serving.infer(asks(hops=2))
        gone = asyncio.ensure_future(CloudFront(rig.cloud).infer(asks()))
        await until(lambda: len(one.said(Infer)) == 2)
        gone.cancel()
        await until(lambda: one.said(InferCancel))

    simulate(scenario)


def test_an_unknown_model_is_not_found():
    """And one that nobody has ready is unavailable, with a word of how to change that."""

    async def scenario(rig):
        with pytest.raises(errors.NotFound):
            await CloudFront(rig.cloud).infer(asks("nothing"))
        await rig.push(mlp())
        with pytest.raises(errors.Unavailable) as caught:
            await CloudFront(rig.cloud).infer(asks())
        assert "tier=cloud" in caught.value.hint

    simulate(scenario)


def test_a_policy_survives_a_restart_of_the_cloud():
    """It is desired state: in the journal, and the engine loads again what it says."""

    async def scenario(rig):
        await rolled(rig)
        await say(rig, priority=1)
        rig.sim.crash("cloud")
        rig.sim.restart("cloud")
        await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set())
        await until(lambda: rig.cloud.serving._own("net"))
        assert rig.cloud.writer.state.policies["net"].priority == 1

    simulate(scenario)
