"""Shadow traffic: compared, never answered, never in the way."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt.protocol.messages import Inferred, TensorSpec
from tests.edge.policed import asked_of, asks, scores, shadowed
from tests.edge.rig import fail, simulate, until


def view(rig):
    found = rig.edge.service.shadows("net")
    return found[0].summary()


def test_a_shadow_is_compared_and_never_answers():
    """The candidate is placed beside, gets the copies in the background, and its answers go into the report."""

    async def scenario(rig):
        await shadowed(rig)
        for device in (rig.d1, rig.d2):
            one, other = scores([0, 1, 0]), scores([1, 0, 0])
            device.answers = lambda c, p, m, one=one, other=other: (other if m.version == 2 else one)(c, p, m)
        for n in range(5):
            found = await rig.edge.service.infer(asks(float(n)))
            assert (found.version, bytes(found.frames[0])) == (1, np.array([0, 1, 0], np.float32).tobytes())
            await asyncio.sleep(0.1)
        await until(lambda: view(rig)["copies"] == 5)
        seen = view(rig)
        assert (seen["agreement"], seen["drift"], seen["against"], seen["failed"]) == (0.0, 1.0, 1, 0)
        copies = [m for m in asked_of(rig, "d1", "d2") if m.version == 2]
        assert len(copies) == 5
        assert {m.priority for m in copies} == {-1}

    simulate(scenario)


@pytest.mark.parametrize("fate", ["silent", "failing", "garbage"])
def test_whatever_becomes_of_a_shadow_the_answers_stay(fate):
    """Not a moment later, not another byte."""

    async def scenario(rig):
        await shadowed(rig)

        def says(child, peer, asked):
            if asked.version != 2:
                scores([3, 1, 2])(child, peer, asked)
            elif fate == "failing":
                fail("model_failed")(child, peer, asked)
            elif fate == "garbage":
                outputs = (TensorSpec("y", "FP32", (1, 3)),)
                peer.send(Inferred(asked.ids, asked.rows, "net", 2, "fp32", child.name, outputs), (b"x",))

        rig.d1.answers = rig.d2.answers = says
        for n in range(10):
            began = rig.sim.now
            found = await rig.edge.service.infer(asks(float(n)))
            assert bytes(found.frames[0]) == np.array([3, 1, 2], np.float32).tobytes()
            assert rig.sim.now - began < 0.1
            await asyncio.sleep(0.2)
        await until(lambda: view(rig)["failed"] > 0, 60)
        assert view(rig)["agreement"] is None

    simulate(scenario)


def test_busy_devices_get_no_copies():
    """Copies wait for a moment without work; when none comes, they go and are counted."""

    async def scenario(rig):
        await shadowed(rig)
        await rig.edge.service.infer(asks())
        await until(lambda: view(rig)["copies"] == 1)
        rig.d1.answers = rig.d2.answers = None
        held = [asyncio.ensure_future(rig.edge.service.infer(asks(float(n), 30.0))) for n in range(2, 5)]
        await asyncio.sleep(0.1)
        chain = rig.edge.service._chains["net"].mirroring
        for n in range(40):
            chain.line.put((asks(float(n)), None, 0.0), rig.sim.now)
        chain._later(0.0)
        before = sum(m.version == 2 for m in asked_of(rig, "d1", "d2"))
        await asyncio.sleep(10)
        assert sum(m.version == 2 for m in asked_of(rig, "d1", "d2")) == before
        assert view(rig)["dropped"] == 40
        for one in held:
            one.cancel()

    simulate(scenario, stall_s=60.0)


def test_a_share_is_copied():
    """Every fourth of them at 25 %."""

    async def scenario(rig):
        await shadowed(rig, share=0.25)
        for n in range(8):
            await rig.edge.service.infer(asks(float(n)))
            await asyncio.sleep(0.1)
        await until(lambda: view(rig)["copies"] == 2)
        await asyncio.sleep(2)
        assert view(rig)["copies"] == 2

    simulate(scenario)
