"""A cascade: sure answers stay, unsure rows go up, and the local answer holds where nobody is above."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from msrt.protocol.messages import Infer, TensorSpec
from msrt.serving.backend import InferRequest
from tests.edge.policed import SURE, UNSURE, asks, cascading, policed, scores
from tests.edge.rig import fail, pushed, simulate, until


def test_a_sure_answer_stays_and_an_unsure_one_goes_up():
    """Each says who answered."""

    async def scenario(rig):
        await cascading(rig, SURE)
        found = await rig.edge.service.infer(asks())
        assert (found.device, dict(found.marks)) == ("d1", {"answered_by": "device"})
        rig.d1.answers = scores(UNSURE)
        found = await rig.edge.service.infer(asks())
        assert (found.device, found.marks["answered_by"], found.marks["escalated"]) == ("cloud", "cloud", 1)
        assert np.frombuffer(found.frames[0], np.float32).tolist() == [0, 0, 7]
        [up] = rig.cloud.told(Infer)
        assert (up.model, up.hops) == ("big", 1)

    simulate(scenario)


def test_only_the_unsure_rows_of_a_batch_go_up():
    """The answers are put together again, each row in its place."""

    async def scenario(rig):
        await cascading(rig, SURE, UNSURE, SURE)
        spec = TensorSpec("x", "FP32", (6, 4))
        data = np.repeat(np.arange(6, dtype=np.float32), 4).tobytes()
        seen = []

        def says(child, peer, asked):
            frames = next(frames for message, frames in rig.cloud_frames if message is asked)
            seen.extend(np.frombuffer(frames[0], np.float32).reshape(-1, 4)[:, 0].tolist())
            scores([0, 0, 7])(child, peer, asked)

        rig.cloud_frames = []
        hear = rig.cloud.message

        def message(peer, heard, frames):
            rig.cloud_frames.append((heard, frames))
            hear(peer, heard, frames)

        rig.cloud.message = message
        rig.cloud.infers = says
        found = await rig.edge.service.infer(InferRequest("net", (spec,), (data,), 5.0))
        wanted = [SURE, [0, 0, 7], SURE, SURE, [0, 0, 7], SURE]
        assert np.array_equal(np.frombuffer(found.frames[0], np.float32).reshape(6, 3), np.array(wanted, np.float32))
        assert seen == [1.0, 4.0]
        assert (found.marks["answered_by"], found.marks["escalated"]) == ("device+cloud", 2)

    simulate(scenario)


@pytest.mark.parametrize("fate", ["away", "late", "failing", "over budget"])
def test_without_the_larger_model_the_local_answer_is_given_and_marked(fate):
    """In time, whatever keeps the tier above."""

    async def scenario(rig):
        await cascading(rig, UNSURE, **({"escalate_budget": 0.0} if fate == "over budget" else {}))
        if fate == "away":
            rig.sim.crash("cloud")
        elif fate == "late":
            rig.cloud.infers = lambda *_: None
        elif fate == "failing":
            rig.cloud.infers = fail("overloaded")
        for _ in range(3):
            began = rig.sim.now
            found = await rig.edge.service.infer(asks(timeout=2.0))
            assert (found.device, dict(found.marks)) == ("d1", {"answered_by": "device", "escalated": "unavailable"})
            assert rig.sim.now - began < 1.9
        assert rig.edge.service.values()["escalation_unavailable"] == 3

    simulate(scenario)


def test_who_was_away_is_asked_again_later():
    """After a rest, not for ever."""

    async def scenario(rig):
        await cascading(rig, UNSURE)
        rig.cloud.infers = fail("overloaded")
        await rig.edge.service.infer(asks())
        rig.cloud.infers = scores([0, 0, 7])
        await asyncio.sleep(1.0)
        assert (await rig.edge.service.infer(asks())).marks["answered_by"] == "cloud"

    simulate(scenario)


def test_a_larger_model_in_this_region_is_asked_first():
    """The edge's devices before the tier above, and a cascade of three goes on from there."""

    async def scenario(rig):
        await cascading(rig, UNSURE)
        await rig.cloud.rollout(1, "big")
        rig.d2.answers = scores([0, 8, 0])
        rig.d2.report(("big", 1))
        await until(lambda: rig.edge.fleet.ready_model("big"))
        found = await rig.edge.service.infer(asks())
        assert (found.device, found.marks["answered_by"]) == ("d2", "device")
        assert not rig.cloud.told(Infer)
        await rig.cloud.writer.append(pushed(1, "huge"))
        await policed(rig, "big", escalate_to="huge", escalate_below=0.8, escalate_budget=1.0)
        rig.d2.answers = scores([0, 0.1, 0])
        found = await rig.edge.service.infer(asks())
        assert found.marks["answered_by"] == "cloud"
        assert rig.cloud.told(Infer)[0].model == "huge"

    simulate(scenario)


def test_a_named_version_is_asked_for_and_nothing_else():
    """Who names one wants its answer, sure or not."""

    async def scenario(rig):
        await cascading(rig, UNSURE)
        found = await rig.edge.service.infer(asks(version=1))
        assert (found.device, dict(found.marks)) == ("d1", {})

    simulate(scenario)
