"""A device's answers: quick ones on the spot, slow ones in a thread, none that nobody waits for."""

from __future__ import annotations

import asyncio
import dataclasses

from msrt.protocol.messages import Inferred, TensorSpec
from msrt_device.requests import Requests
from tests.device.rig import request, simulate, slots_with, until
from tests.runtime.inference.models import mlp

SLOW_US = 50_000


class Desk:
    """Requests of its own beside the device's, over the device's uplink; slow calls wait until `go` is set."""

    def __init__(self, rig, *, slow=False, bound=64, slots=None):
        self.rig, self.peer = rig, rig.device.uplink.peer
        self.go = asyncio.Event()
        self.calls = 0
        self.slots = slots or slots_with()
        if slow:
            self.slots.serving("net").latency_us = {"fp32": SLOW_US}
        world = dataclasses.replace(rig.device.world, offload=self._offload)
        self.requests = Requests(world, self.slots, "dev", bound)

    async def _offload(self, work, *args):
        self.calls += 1
        await self.go.wait()
        return work(*args)

    def ask(self, *ids, **more):
        message, frames = request(ids, **more)
        self.requests.received(self.peer, message, list(frames))

    async def heard(self, *wanted):
        """The edge hears exactly this: (id, version) or (id, code)."""
        await until(lambda: self.rig.answers() == list(wanted))


def test_a_quick_model_answers_on_the_spot():
    """One message for the batch, with the device's name; no thread is used."""

    async def scenario(rig):
        desk = Desk(rig)
        desk.ask(1, 2, 3)
        await desk.heard((1, 1), (2, 1), (3, 1))
        [answer] = rig.edge.said(Inferred)
        assert (answer.device, answer.rows) == ("dev", (1, 1, 1))
        assert (desk.calls, desk.requests.answered) == (0, 3)

    simulate(scenario)


def test_what_cannot_be_answered_is_refused_with_its_reason():
    """An unknown model, a version that is not here, wrong tensors: each its own code, and it is counted."""

    async def scenario(rig):
        desk = Desk(rig)
        desk.ask(1, model="cat")
        desk.ask(2, version=7)
        message, frames = request((3,))
        desk.requests.received(desk.peer, message, [bytes(frames[0])[:-4]])
        await desk.heard((1, "not_found"), (2, "not_found"), (3, "invalid_tensor"))
        assert (desk.requests.refused, desk.requests.answered) == (3, 0)

    simulate(scenario)


def test_a_slow_model_does_not_hold_the_loop():
    """Its call goes to a thread, the next ones wait in order."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        for ident in (1, 2, 3):
            desk.ask(ident)
        await until(lambda: desk.calls == 1)
        assert desk.requests.queued == 2
        desk.go.set()
        await desk.heard((1, 1), (2, 1), (3, 1))

    simulate(scenario)


def test_many_rows_of_a_quick_model_are_slow():
    """What counts is the time of the whole batch."""

    async def scenario(rig):
        desk = Desk(rig)
        desk.slots.serving("net").latency_us = {"fp32": 10}
        desk.ask(1, rows=200)
        await until(lambda: desk.calls == 1)
        desk.go.set()
        await desk.heard((1, 1))

    simulate(scenario)


def test_a_quick_request_does_not_overtake_slow_ones():
    """Behind a queue everybody waits: one thread's work at a time."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        desk.ask(1)
        desk.ask(2)
        await until(lambda: desk.calls == 1)
        desk.slots.serving("net").latency_us = {"fp32": 1}
        desk.ask(3)
        desk.go.set()
        await desk.heard((1, 1), (2, 1), (3, 1))

    simulate(scenario)


def test_the_queue_is_bounded():
    """One batch more than it holds is refused at once as overloaded: the edge tries another device."""

    async def scenario(rig):
        desk = Desk(rig, slow=True, bound=2)
        desk.ask(1)
        await until(lambda: desk.calls == 1)
        for ident in (2, 3, 4):
            desk.ask(ident)
        await desk.heard((4, "overloaded"))
        assert desk.requests.queued == 2
        desk.go.set()
        await desk.heard((4, "overloaded"), (1, 1), (2, 1), (3, 1))

    simulate(scenario)


def test_what_expired_in_the_queue_is_not_computed():
    """Its caller has gone: the time is spent on those who still wait."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        desk.ask(1)
        desk.ask(2, deadline_ms=100)
        desk.ask(3)
        await asyncio.sleep(0.2)
        desk.go.set()
        await desk.heard((1, 1), (3, 1))
        assert (desk.calls, desk.requests.expired) == (2, 1)

    simulate(scenario)


def test_a_batch_is_skipped_only_when_all_its_riders_left():
    """One rider who still waits keeps the batch."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        desk.ask(1)
        desk.ask(2, 3)
        desk.ask(4, 5)
        await until(lambda: desk.calls == 1)
        desk.requests.cancelled((2, 3, 4))
        desk.go.set()
        await desk.heard((1, 1), (4, 1), (5, 1))
        assert (desk.requests.abandoned, desk.requests.expired, desk.requests.queued) == (2, 0, 0)

    simulate(scenario)


def test_with_the_edge_gone_nothing_is_computed_for_it():
    """Its callers were told by the edge's death; the next edge starts with an empty queue."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        for ident in (1, 2, 3):
            desk.ask(ident)
        await until(lambda: desk.calls == 1)
        desk.requests.forget()
        assert desk.requests.queued == 0
        desk.go.set()
        await asyncio.sleep(1)
        assert desk.calls == 1

    simulate(scenario)


def test_an_answer_too_large_for_the_link_is_refused():
    """The caller hears at once that it does not fit, from a quick model and from a slow one."""

    async def scenario(rig):
        wide = mlp(sizes=(4, 3000))
        rows = 1 + desk_limit(rig) // (3000 * 4)
        for slow in (False, True):
            desk = Desk(rig, slow=slow, slots=slots_with(wide, outputs=(TensorSpec("y", "FP32", (-1, 3000)),)))
            desk.go.set()
            before = len(rig.answers())
            desk.ask(1, rows=rows)
            await until(lambda: len(rig.answers()) > before)  # noqa: B023 - called within the turn
            assert rig.answers()[-1] == (1, "frame_too_large")
            assert (desk.requests.answered, desk.requests.refused) == (0, 1)

    simulate(scenario)


def test_the_longest_call_is_told_once():
    """Training pauses by it; asked again, it starts from nothing."""

    async def scenario(rig):
        desk = Desk(rig)
        ticks = iter([0.0, 0.030, 0.030, 0.040])
        desk.requests._world = dataclasses.replace(desk.requests._world, now=lambda: next(ticks))
        desk.ask(1)
        desk.ask(2)
        assert desk.requests.take_slowest_us() == 30_000
        assert desk.requests.take_slowest_us() == 0

    simulate(scenario)


def desk_limit(rig):
    """Bytes of the largest packet between the device and its edge."""
    return rig.device.uplink.peer.limit
