"""The result cache of a model that has one: one computation, forgotten by an update."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import Infer, InferCancel, Inferred
from tests.edge.policed import asks, policed, scores
from tests.edge.rig import answer, fail, simulate, until


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
