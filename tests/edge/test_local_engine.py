"""An engine on the edge itself, and policies that need no stage."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import Infer, Inferred
from msrt.serving.backend import InferRequest
from tests.edge.policed import asks, policed
from tests.edge.rig import X, simulate, until
from tests.runtime.inference.models import mlp


def test_a_model_without_a_policy_takes_no_other_way():
    """What the front gets is the dispatcher's own future."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, overflow=False)
        assert isinstance(rig.edge.service.infer(asks()), asyncio.Future)
        assert not rig.edge.service._entries

    simulate(scenario)


def test_a_model_for_this_tier_runs_on_the_edge_itself():
    """Loaded by its own engine, answered through its own dispatcher, told to the cloud; no device gets it."""

    async def scenario(rig):
        await rig.cloud.rollout(1, files={"fp32": mlp()}, selector="tier=edge")
        await until(lambda: rig.edge.fleet.ready_model("net"), 20)
        answers = await asyncio.gather(*(rig.edge.service.infer(asks(float(n))) for n in range(5)))
        assert {one.device for one in answers} == {"edge"}
        assert len({bytes(one.frames[0]) for one in answers}) == 5
        assert rig.d1.placed in (None, [])
        rig.c.ask(1)
        await until(lambda: rig.c.told(Inferred))
        assert rig.edge.fleet.record(rig.edge.node).labels["tier"] == "edge"
        with pytest.raises(errors.InvalidTensor):
            await rig.edge.service.infer(InferRequest("net", (X,), (b"",), 1.0))

    simulate(scenario, clients=("c",))


def test_a_model_for_devices_is_not_the_edges():
    """No selector, or one without a tier, means devices."""

    async def scenario(rig):
        await rig.cloud.rollout(1, files={"fp32": mlp()})
        await until(lambda: rig.d1.placed)
        assert rig.edge.engine.models == ()

    simulate(scenario)


def test_a_model_that_must_not_be_computed_twice_is_not_hedged():
    """The policy reaches the dispatcher, for HTTP and for clients."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, hedge=False)
        rig.d1.answers = None
        rig.c.ask(1)
        await until(lambda: rig.edge.dispatcher.open_requests == 1)
        held = rig.edge.service.infer(asks(1.0))
        await until(lambda: rig.edge.dispatcher.open_requests == 2)
        assert [one.hedgeable for one in rig.edge.dispatcher.flow.live.values()] == [False, False]
        held.cancel()

    simulate(scenario, clients=("c",))


def test_a_priority_is_of_requests_that_name_none():
    """Who names one keeps it."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, priority=-1)
        await rig.edge.service.infer(asks())
        await rig.edge.service.infer(asks(1.0, priority=1))
        rig.c.ask(1)
        await until(lambda: rig.c.told(Inferred))
        assert [message.priority for message in rig.d1.told(Infer)] == [-1, 1, -1]

    simulate(scenario, clients=("c",))
