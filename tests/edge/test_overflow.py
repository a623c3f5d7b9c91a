"""A full region passes requests on, and not too far."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.protocol.messages import Infer, Inferred
from tests.edge.policed import asks, policed
from tests.edge.rig import answer, fail, simulate, until


def test_a_full_region_asks_the_cloud_and_says_so():
    """HTTP and clients; the hop is counted; with the cloud unable as well they hear what the region said."""

    async def scenario(rig):
        await rig.serve("d1")
        rig.d1.answers = None
        rig.cloud.infers = answer
        held = [rig.edge.service.infer(asks(float(n), 20.0)) for n in range(4)]
        await asyncio.sleep(0.01)
        held += [rig.edge.service.infer(asks(float(n), 20.0)) for n in range(2)]
        await asyncio.sleep(0.01)
        found = await rig.edge.service.infer(asks(9.0))
        assert (found.device, dict(found.marks)) == ("cloud", {"region": "cloud"})
        rig.c.ask(5)
        await until(lambda: rig.c.told(Inferred))
        assert rig.c.told(Inferred)[0].marks == {"region": "cloud"}
        assert {message.hops for message in rig.cloud.told(Infer)} == {1}
        rig.cloud.infers = fail("overloaded")
        with pytest.raises(errors.Overloaded, match="wait"):
            await rig.edge.service.infer(asks(9.0))
        for one in held:
            one.cancel()

    simulate(scenario, clients=("c",), queue_items=2, batch_rows=1, stall_s=60.0)


def test_a_policy_may_forbid_to_pass_on():
    """What stays in its region by rule is refused there."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, overflow=False)
        rig.d1.answers = None
        rig.cloud.infers = answer
        held = [rig.edge.service.infer(asks(float(n), 20.0)) for n in range(4)]
        await asyncio.sleep(0.01)
        held += [rig.edge.service.infer(asks(float(n), 20.0)) for n in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(errors.Overloaded):
            await rig.edge.service.infer(asks(9.0))
        assert not rig.cloud.told(Infer)
        for one in held:
            one.cancel()

    simulate(scenario, queue_items=2, batch_rows=1, stall_s=60.0)


def test_what_was_passed_on_twice_stays():
    """A request that came over two masters goes no further, whatever they are."""

    async def scenario(rig):
        await rig.cloud.rollout(1)
        await until(lambda: ("net", 1) in rig.edge.fleet.manifests)
        rig.cloud.infers = answer
        with pytest.raises(errors.Unavailable):
            await rig.edge.service.infer(asks(hops=2))
        assert not rig.cloud.told(Infer)
        assert (await rig.edge.service.infer(asks())).device == "cloud"

    simulate(scenario)


def test_a_bad_request_is_passed_to_nobody():
    """Where nobody has the model it is still held against its manifest here."""

    async def scenario(rig):
        await rig.cloud.rollout(1)
        await until(lambda: ("net", 1) in rig.edge.fleet.manifests)
        rig.cloud.infers = answer
        with pytest.raises(errors.InvalidTensor):
            await rig.edge.service.infer(msgspec.structs.replace(asks(), frames=(b"short",)))
        assert not rig.cloud.told(Infer)

    simulate(scenario)
