"""A device's answers: quick ones on the spot, slow ones in a thread, none that nobody waits for."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import numpy as np

from msrt import errors
from msrt.protocol.messages import Infer, Inferred, TensorSpec
from msrt_device.requests import Requests
from tests.device.rig import request, simulate, slots_with, until
from tests.runtime.inference.models import mlp
from tests.runtime.inference.test_sequences import House

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


def test_an_answer_says_what_waited():
    """How long its batch waited here, and the rows that still wait behind it: the edge's probe of this device."""

    async def scenario(rig):
        desk = Desk(rig, slow=True)
        desk.ask(1)
        desk.ask(2, rows=3)
        desk.ask(3, 4)
        await asyncio.sleep(0.25)
        desk.go.set()
        await desk.heard((1, 1), (2, 1), (3, 1), (4, 1))
        first, second, last = rig.edge.said(Inferred)
        assert [one.depth for one in (first, second, last)] == [5, 2, 0]
        assert first.queue_us < 1000
        assert second.queue_us >= 250_000
        quick = Desk(rig)
        quick.ask(5)
        await quick.heard((1, 1), (2, 1), (3, 1), (4, 1), (5, 1))
        assert (rig.edge.said(Inferred)[-1].depth, rig.edge.said(Inferred)[-1].queue_us) == (0, 0)

    simulate(scenario)


def test_what_is_asked_of_a_cold_model_waits_for_it():
    """Its owner is told to load it; loaded, it answers all of them in order, less those that were given up."""

    async def scenario(rig):
        desk = Desk(rig)
        called = []
        desk.requests._wants_cold = lambda: called.append(1)
        slot = desk.slots.serving("net")
        model = slot.model
        desk.slots.unload(slot)
        desk.ask(1)
        desk.ask(2, 3)
        desk.ask(4, deadline_ms=50)
        desk.ask(5)
        assert (len(called), desk.requests.queued, slot.in_flight) == (4, 4, 4)
        desk.requests.cancelled((5,))
        await asyncio.sleep(0.1)
        assert rig.answers() == []
        desk.slots.ready(slot, "fp32", model, {"fp32": 5})
        desk.requests.models_changed()
        await desk.heard((1, 1), (2, 1), (3, 1))
        assert (desk.requests.expired, desk.requests.abandoned, desk.requests.queued) == (1, 1, 0)
        assert slot.in_flight == 0
        assert rig.edge.said(Inferred)[0].queue_us >= 100_000

    simulate(scenario)


def test_a_cold_model_that_cannot_be_loaded_is_told_to_those_who_wait():
    """As unavailable: the edge asks another device."""

    async def scenario(rig):
        desk = Desk(rig)
        slot = desk.slots.serving("net")
        desk.slots.unload(slot)
        desk.ask(1)
        desk.slots.failed(slot, errors.Unavailable("the edge is away"), 5.0)
        desk.requests.models_changed()
        await desk.heard((1, "unavailable"))
        assert slot.in_flight == 0

    simulate(scenario)


def test_with_the_edge_gone_a_cold_model_is_not_held_for_its_callers():
    """What it borrowed is given back."""

    async def scenario(rig):
        desk = Desk(rig)
        slot = desk.slots.serving("net")
        desk.slots.unload(slot)
        desk.ask(1)
        desk.requests.forget()
        assert (slot.in_flight, desk.requests.queued) == (0, 0)

    simulate(scenario)


def stateful_slots(slow=False):
    """Slots that serve the adder of test_sequences."""
    house = House()
    if slow:
        house.slots.serving("net").latency_us = {"fp32": SLOW_US}
    return house.slots


class Talk(Desk):
    """Steps of sequences."""

    def step(self, ident, name, value, **flags):
        x = np.full((1, 2), value, np.float32)
        spec = TensorSpec("x", "FP32", (1, 2))
        deadline = flags.pop("deadline_ms", 5000)
        message = Infer((ident,), (1,), "net", (spec,), 1, deadline, sequence=name, **flags)
        self.requests.received(self.peer, message, [x.tobytes()])

    def sums(self):
        return [float(np.frombuffer(frames[0], np.float32)[0]) for one, frames in self.rig.edge.heard
                if isinstance(one, Inferred)]  # fmt: skip


def test_steps_of_a_sequence_keep_their_order_in_a_thread_and_out_of_it():
    """A quick step does not overtake one that is being computed."""

    async def scenario(rig):
        talk = Talk(rig, slots=stateful_slots(slow=True))
        talk.step(1, "s", 1, sequence_start=True)
        await until(lambda: talk.calls == 1)
        talk.slots.serving("net").latency_us = {"fp32": 1}
        talk.step(2, "s", 2)
        talk.step(3, "s", 3)
        talk.go.set()
        await talk.heard((1, 1), (2, 1), (3, 1))
        assert talk.sums() == [1, 3, 6]

    simulate(scenario)


def test_a_step_that_expired_here_loses_its_sequence():
    """It was not computed: the next one is told so, and so is one for a sequence of a version that left."""

    async def scenario(rig):
        talk = Talk(rig, slots=stateful_slots(slow=True))
        talk.step(1, "s", 1, sequence_start=True)
        talk.step(2, "s", 1, deadline_ms=50)
        await asyncio.sleep(0.2)
        talk.go.set()
        await talk.heard((1, 1))
        talk.step(3, "s", 1)
        await talk.heard((1, 1), (3, "sequence_lost"))
        message, frames = request((4,), version=9)
        talk.requests.received(talk.peer, msgspec.structs.replace(message, sequence="s"), list(frames))
        await talk.heard((1, 1), (3, "sequence_lost"), (4, "sequence_lost"))

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
