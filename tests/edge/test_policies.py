"""Requests of models that have a policy: cache, shadow, cascade, overflow, and an engine on the edge itself."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from msrt import errors
from msrt.dispatch.policy import ModelPolicy
from msrt.journal.facts import PolicySet
from msrt.protocol.messages import Infer, InferCancel, Inferred, TensorSpec
from msrt.serving.backend import InferRequest
from tests.edge.rig import X, answer, fail, pushed, simulate, until
from tests.runtime.inference.models import mlp


def asks(value=0.0, timeout=5.0, rows=1, **more):
    """Rows of one value each."""
    spec = TensorSpec("x", "FP32", (rows, 4))
    return InferRequest("net", (spec,), (np.full((rows, 4), value, np.float32).tobytes(),), timeout, **more)


def scores(*rows, version=1, model=None):
    """As a device whose model answers these rows, again and again."""

    def says(child, peer, asked):
        count = sum(asked.rows)
        found = np.array([rows[n % len(rows)] for n in range(count)], np.float32)
        outputs = (TensorSpec("y", "FP32", found.shape),)
        said = Inferred(asked.ids, asked.rows, asked.model, asked.version or version, "fp32", child.name, outputs)
        if model in (None, asked.model):
            peer.send(said, (found.tobytes(),))

    return says


async def policed(rig, model="net", **fields):
    """The operator said how the model is served, and the edge knows."""
    policy = ModelPolicy(**fields)
    await rig.cloud.writer.append(PolicySet(model, policy))
    await until(lambda: rig.edge.follower.state.policies.get(model) == policy)


def asked_of(rig, *names):
    return [message for name in names for message in getattr(rig, name).told(Infer)]


def test_a_model_without_a_policy_takes_no_other_way():
    """What the front gets is the dispatcher's own future."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, overflow=False)
        assert isinstance(rig.edge.service.infer(asks()), asyncio.Future)
        assert not rig.edge.service._entries

    simulate(scenario)


# --- cache -----------------------------------------------------------------------------------------------------


def test_the_same_question_is_computed_once():
    """The second answer comes from memory and says so; another input is another question."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, cache_bytes=1 << 20)
        first = await rig.edge.service.infer(asks())
        second = await rig.edge.service.infer(asks())
        other = await rig.edge.service.infer(asks(1.0))
        assert [dict(one.marks) for one in (first, second, other)] == [{}, {"cached": True}, {}]
        assert [bytes(f) for f in first.frames] == [bytes(f) for f in second.frames]
        assert len(rig.d1.told(Infer)) == 2

    simulate(scenario)


def test_who_asks_the_same_meanwhile_shares_the_computation():
    """Clients and HTTP alike; one who leaves takes it from nobody, the last one takes it along."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, cache_bytes=1 << 20)
        rig.d1.answers = None
        futures = [asyncio.ensure_future(rig.edge.service.infer(asks())) for _ in range(4)]
        rig.c.ask(1)
        await until(lambda: rig.d1.told(Infer))
        await asyncio.sleep(0.05)
        assert len(rig.d1.told(Infer)) == 1
        futures[0].cancel()
        await asyncio.sleep(0.01)
        answer(rig.d1, rig.d1.peer, rig.d1.told(Infer)[0])
        assert [dict(one.marks) for one in await asyncio.gather(*futures[1:])] == [{"cached": True}] * 3
        await until(lambda: rig.c.told(Inferred))
        alone = asyncio.ensure_future(rig.edge.service.infer(asks(2.0)))
        await until(lambda: len(rig.d1.told(Infer)) == 2)
        alone.cancel()
        await until(lambda: rig.d1.told(InferCancel))

    simulate(scenario, clients=("c",))


def test_a_shared_computation_ends_with_who_has_most_time():
    """One who asked with little time does not end it for the others."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, cache_bytes=1 << 20)
        rig.d1.answers = None
        hasty = asyncio.ensure_future(rig.edge.service.infer(asks(timeout=0.2)))
        patient = asyncio.ensure_future(rig.edge.service.infer(asks(timeout=5.0)))
        with pytest.raises(errors.DeadlineExceeded):
            await hasty
        rig.d1.answers = answer
        await until(lambda: len(rig.d1.told(Infer)) == 2)
        assert (await patient).device == "d1"

    simulate(scenario, stall_s=10.0)


def test_another_version_forgets_what_was_kept():
    """And while two versions answer, nothing is taken from memory: a canary sees its traffic."""

    async def scenario(rig):
        await rig.serve("d1", "d2")
        await policed(rig, cache_bytes=1 << 20)
        await rig.edge.service.infer(asks())
        kept = rig.edge.service._chains["net"].caching.cache
        assert len(kept) == 1
        await rig.cloud.rollout(2, previous=1)
        rig.d1.report(("net", 1), ("net", 2))
        await until(lambda: any(table.candidate for table in rig.edge.fleet.serving_versions()))
        assert "cached" not in (await rig.edge.service.infer(asks())).marks
        rig.d1.report(("net", 2))
        rig.d2.report(("net", 2))
        await until(lambda: rig.edge.fleet.settled("net") == 2)
        rig.d1.answers = rig.d2.answers = scores([1, 2, 3], version=2)
        found = await rig.edge.service.infer(asks())
        assert (found.version, dict(found.marks)) == (2, {})
        assert (await rig.edge.service.infer(asks())).marks == {"cached": True}

    simulate(scenario)


def test_errors_and_sequences_are_not_kept():
    """A device that could not is asked again; a stateful answer is of its moment."""

    async def scenario(rig):
        await rig.serve("d1")
        await policed(rig, cache_bytes=1 << 20, overflow=False)
        rig.d1.answers = fail("invalid_tensor")
        for _ in range(2):
            with pytest.raises(errors.InvalidTensor):
                await rig.edge.service.infer(asks())
        assert len(rig.d1.told(Infer)) == 2
        rig.d1.answers = answer
        for start in (True, False):
            found = await rig.edge.service.infer(asks(sequence="s", sequence_start=start))
            assert not found.marks
        assert len(rig.d1.told(Infer)) == 4

    simulate(scenario)


# --- shadow ----------------------------------------------------------------------------------------------------


async def shadowed(rig, share=1.0):
    """Version 1 answers, version 2 is beside it on both devices."""
    await rig.serve("d1", "d2")
    await rig.cloud.writer.append(pushed(2))
    await policed(rig, shadow=2, shadow_share=share)
    await until(lambda: ("net", 2, "measure", False) in (rig.d1.placed or []) or len(rig.d1.placed or []) == 2)
    for device in (rig.d1, rig.d2):
        device.report(("net", 1), ("net", 2))
    await until(lambda: all(len(seen.models) == 2 for seen in rig.edge.fleet.devices.values()))


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


# --- cascade ---------------------------------------------------------------------------------------------------

UNSURE, SURE = [0.1, 0.0, 0.0], [9.0, 0.0, 0.0]


async def cascading(rig, *rows, **fields):
    """`net` on d1 says these rows; `big` is asked where it is not sure."""
    await rig.serve("d1")
    await rig.cloud.writer.append(pushed(1, "big"))
    await policed(rig, escalate_to="big", **{"escalate_below": 0.8, "escalate_budget": 1.0, **fields})
    rig.d1.answers = scores(*rows)
    rig.cloud.infers = scores([0, 0, 7])


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


# --- overflow --------------------------------------------------------------------------------------------------


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


# --- an engine of its own --------------------------------------------------------------------------------------


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
