"""Requests through an edge: to devices, again to others, and back to whoever asked."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, TensorSpec
from msrt.serving.backend import InferRequest
from tests.edge.rig import X, answer, fail, simulate, until


def asks(timeout=5.0, **more):
    """A request as the HTTP front makes it."""
    return InferRequest("net", (X,), (bytes(16),), timeout, **more)


def rides(*rows, ids=None):
    """One message with several requests of so many rows; its frame holds what the rows say."""
    ids = tuple(range(1, len(rows) + 1)) if ids is None else ids
    return Infer(ids, rows, "net", (TensorSpec("x", "FP32", (sum(rows), 4)),)), (bytes(16 * sum(rows)),)


def holder(rig):
    """The device that holds the only request now, and the other one."""
    asked = [rig.d1.told(Infer), rig.d2.told(Infer)]
    return (rig.d1, rig.d2) if asked[0] else (rig.d2, rig.d1)


async def silent(rig):
    """Devices that take requests and say nothing."""
    await rig.serve()
    rig.d1.answers = rig.d2.answers = None


async def taken(rig):
    await until(lambda: rig.d1.told(Infer) or rig.d2.told(Infer))
    return holder(rig)


def test_a_request_is_answered_once_with_who_answered_it():
    """From HTTP as a future, from a client as a message with its own id."""

    async def scenario(rig):
        await rig.serve()
        found = await rig.edge.requests.infer(asks())
        assert (found.version, found.variant, found.device in ("d1", "d2")) == (1, "fp32", True)
        assert (found.outputs[0].shape, len(bytes(found.frames[0]))) == ((1, 3), 12)
        rig.c.ask(7)
        await until(lambda: rig.c.told(Inferred))
        await asyncio.sleep(5)
        [told] = rig.c.told(Inferred)
        assert (told.ids, told.rows) == ((7,), (1,))

    simulate(scenario, clients=("c",))


def test_requests_of_one_turn_ride_together():
    """One batch to one device, and each caller gets its own rows."""

    async def scenario(rig):
        await rig.serve("d1")
        answers = await asyncio.gather(*(rig.edge.requests.infer(asks()) for _ in range(5)))
        [batch] = rig.d1.told(Infer)
        assert (len(batch.ids), sum(batch.rows)) == (5, 5)
        assert {len(bytes(one.frames[0])) for one in answers} == {12}

    simulate(scenario)


def test_what_a_client_sent_together_is_answered_together():
    """In one message, rows in the order of its ids."""

    async def scenario(rig):
        await rig.serve("d1")
        message, frames = rides(1, 2, 3)
        rig.c.peer.send(message, frames)
        await until(lambda: rig.c.told(Inferred))
        [(told, found)] = [pair for pair in rig.c.heard if isinstance(pair[0], Inferred)]
        assert (told.ids, told.rows, told.outputs[0].shape) == ((1, 2, 3), (1, 2, 3), (6, 3))
        assert len(bytes(found[0])) == 72

    simulate(scenario, clients=("c",))


@pytest.mark.parametrize("fate", ["crash", "partition", "stop"])
def test_a_request_of_a_device_that_dies_is_answered_by_another(fate):
    """Killed, cut off or stopped: the caller only waits a little longer."""

    async def scenario(rig):
        await silent(rig)
        rig.c.ask(1)
        victim, other = await taken(rig)
        other.answers = answer
        if fate == "partition":
            rig.sim.partition("edge", victim.name)
        else:
            getattr(rig.sim, fate)(victim.name)
        began = rig.sim.now
        await until(lambda: rig.c.told(Inferred), 5)
        assert rig.c.told(Inferred)[0].device == other.name
        assert rig.sim.now - began < 2.0
        assert rig.edge.dispatcher.counters.retried == 1

    simulate(scenario, clients=("c",))


def test_a_device_that_cannot_is_passed_over():
    """Its failure is another device's request; the caller hears nothing of it."""

    async def scenario(rig):
        await rig.serve()
        rig.d1.answers = fail("model_failed")
        for _ in range(6):
            assert (await rig.edge.requests.infer(asks())).device == "d2"

    simulate(scenario)


def test_a_request_that_is_at_fault_is_tried_once():
    """What another device would say as well goes to the caller at once, by its own name."""

    async def scenario(rig):
        await rig.serve()
        rig.d1.answers = rig.d2.answers = fail("invalid_tensor")
        with pytest.raises(errors.InvalidTensor):
            await rig.edge.requests.infer(asks())
        assert len(rig.d1.told(Infer)) + len(rig.d2.told(Infer)) == 1

    simulate(scenario)


def test_attempts_are_bounded():
    """When no device can, the caller hears how many were tried."""

    async def scenario(rig):
        await rig.serve()
        rig.d1.answers = rig.d2.answers = fail("model_failed")
        with pytest.raises(errors.Unavailable, match="2 workers could not answer"):
            await rig.edge.requests.infer(asks())

    simulate(scenario, request_attempts=2)


def test_a_full_queue_refuses_and_says_when_to_come_back():
    """Callers of HTTP and clients alike; those who wait are not touched."""

    async def scenario(rig):
        await silent(rig)
        kept = []
        for _ in range(6):  # two in flight to each device, two wait
            kept.append(rig.edge.requests.infer(asks(20.0)))
            await asyncio.sleep(0.001)
        assert rig.edge.dispatcher.queued == 2
        with pytest.raises(errors.Overloaded) as caught:
            await rig.edge.requests.infer(asks(20.0))
        assert 0 < caught.value.retry_after <= 30
        rig.c.ask(1)
        await until(lambda: rig.c.told(InferFailed))
        [told] = rig.c.told(InferFailed)
        assert (told.ids, told.code, told.retry_after_ms > 0) == ((1,), "overloaded", True)
        rig.d1.answers = rig.d2.answers = answer
        for device in (rig.d1, rig.d2):
            for message in device.told(Infer):
                answer(device, device.peer, message)
        await asyncio.gather(*kept)

    simulate(scenario, clients=("c",), queue_items=2, batch_rows=2)


def test_who_waits_too_long_in_the_queue_is_told():
    """Rather than being answered when nobody listens any more."""

    async def scenario(rig):
        await silent(rig)
        waiting = [rig.edge.requests.infer(asks(20.0)) for _ in range(12)]
        began = rig.sim.now
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), (errors.Overloaded, errors.Unavailable))
        assert rig.sim.now - began <= 2.1
        done, _ = await asyncio.wait(waiting)
        assert all(one.exception() for one in done)

    simulate(scenario, batch_rows=1, batch_window=1, queue_age_s=2.0)


def test_a_deadline_is_kept_and_the_device_is_told():
    """The caller hears at its deadline, not later; nobody computes on for nothing."""

    async def scenario(rig):
        await silent(rig)
        began = rig.sim.now
        with pytest.raises(errors.DeadlineExceeded):
            await rig.edge.requests.infer(asks(0.5))
        assert rig.sim.now - began == pytest.approx(0.5, abs=0.01)
        victim, _ = holder(rig)
        await until(lambda: victim.told(InferCancel))

    simulate(scenario)


def test_an_answer_that_comes_too_late_goes_nowhere():
    """It is counted, and the caller, who heard of its deadline, hears no more."""

    async def scenario(rig):
        await silent(rig)
        rig.c.ask(1, deadline_ms=300)
        victim, _ = await taken(rig)
        await until(lambda: rig.c.told(InferFailed))
        answer(victim, victim.peer, victim.told(Infer)[0])
        await until(lambda: rig.edge.dispatcher.counters.late)
        assert [type(m) for m in rig.c.told(Inferred, InferFailed)] == [InferFailed]

    simulate(scenario, clients=("c",))


def test_a_request_nobody_waits_for_is_called_back():
    """An HTTP caller that hung up, a client that said so, and a client that is gone."""

    async def scenario(rig):
        await silent(rig)
        future = rig.edge.requests.infer(asks())
        victim, _ = await taken(rig)
        future.cancel()
        await until(lambda: victim.told(InferCancel))
        rig.c.ask(5)
        rig.c.ask(6)
        await until(lambda: rig.edge.dispatcher.open_requests == 2)
        rig.c.peer.send(InferCancel((5, 99)))
        await until(lambda: rig.edge.dispatcher.open_requests == 1)
        rig.sim.crash("c")
        await until(lambda: rig.edge.dispatcher.open_requests == 0)

    simulate(scenario, clients=("c",))


def test_the_same_request_again_is_one_request():
    """A client repeats it with its id after a reconnect; it is computed and answered once."""

    async def scenario(rig):
        await silent(rig)
        rig.c.ask(1)
        victim, _ = await taken(rig)
        rig.c.ask(1)
        rig.c.ask(2)
        await until(lambda: rig.edge.dispatcher.open_requests == 2)
        await asyncio.sleep(0.05)
        assert rig.edge.dispatcher.open_requests == 2
        rig.d1.answers = rig.d2.answers = answer
        answer(victim, victim.peer, victim.told(Infer)[0])
        await until(lambda: rig.edge.dispatcher.open_requests == 0)
        answered = [ident for message in rig.c.told(Inferred) for ident in message.ids]
        assert sorted(answered) == [1, 2]

    simulate(scenario, clients=("c",))


@pytest.mark.parametrize(
    ("message", "frames", "code"),
    [
        (Infer((1,), (1,), "nothing", (X,)), (bytes(16),), "not_found"),
        (Infer((1,), (1,), "net", (X,), version=9), (bytes(16),), "not_found"),
        (Infer((1,), (1,), "net", (TensorSpec("z", "FP32", (1, 4)),)), (bytes(16),), "invalid_tensor"),
        (Infer((1,), (1,), "net", (X,)), (bytes(15),), "invalid_tensor"),
        (rides(1, 1)[0], (bytes(16),), "invalid_tensor"),
        (Infer((1, 2), (1,), "net", (TensorSpec("x", "FP32", (2, 4)),)), (bytes(32),), "invalid_tensor"),
        (Infer((1, 2), (2, 0), "net", (TensorSpec("x", "FP32", (2, 4)),)), (bytes(32),), "invalid_tensor"),
        (Infer((1, 2), (1, 2), "net", (TensorSpec("x", "FP32", (2, 4)),)), (bytes(32),), "invalid_tensor"),
    ],
)
def test_a_bad_request_of_a_client_gets_its_reason(message, frames, code):
    """All that rode in it are told, no device sees it, and the client's session goes on."""

    async def scenario(rig):
        await rig.serve()
        rig.c.peer.send(message, frames)
        await until(lambda: rig.c.told(InferFailed))
        [told] = rig.c.told(InferFailed)
        assert (told.ids, told.code) == (message.ids, code)
        assert not rig.d1.told(Infer)
        rig.c.ask(1)
        await until(lambda: rig.c.told(Inferred))

    simulate(scenario, clients=("c",))


def test_a_request_that_no_packet_can_carry_fails_alone():
    """At once and by name; those that came in the same moment are answered."""

    async def scenario(rig):
        await rig.serve()
        bad = rig.edge.requests.infer(asks(outputs=("y" * 600_000,)))
        good = [rig.edge.requests.infer(asks()) for _ in range(3)]
        with pytest.raises(errors.MsrtError) as caught:
            await asyncio.wait_for(bad, 1.0)
        assert not isinstance(caught.value, errors.DeadlineExceeded)
        assert len(await asyncio.wait_for(asyncio.gather(*good), 1.0)) == 3

    simulate(scenario)


def test_an_answer_of_the_wrong_size_is_tried_elsewhere():
    """A device that breaks the model's signature is not believed."""

    async def scenario(rig):
        await rig.serve()

        def short(child, peer, asked):
            outputs = (TensorSpec("y", "FP32", (sum(asked.rows), 3)),)
            peer.send(Inferred(asked.ids, asked.rows, asked.model, 1, "fp32", child.name, outputs), (bytes(5),))

        rig.d1.answers = short
        for _ in range(4):
            assert (await rig.edge.requests.infer(asks())).device == "d2"
        assert rig.edge.dispatcher.counters.invalid >= 1

    simulate(scenario)
