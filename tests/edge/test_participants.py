"""Who takes part in a region's round: each hears of itself, strangers are refused, weights are bounded."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.protocol.messages import Plan, RoundClosed, RoundOpen
from msrt_edge import training as room
from tests.edge.rig import identity, simulate, until
from tests.edge.test_training import begun, flat, meta, nodes, sends, sums


def test_a_device_hears_of_itself_only():
    """What the others are does not concern it, and would be their number in bytes to every one of them."""

    async def scenario(rig):
        await begun(rig)
        for index, name in enumerate(("d1", "d2")):
            [told] = getattr(rig, name).told(RoundOpen)
            assert (told.participants, told.count) == ({identity(name).node: index}, 2)
        rig.cloud.say(RoundClosed("job", 1, (identity("d1").node, identity("d2").node)))
        await until(lambda: rig.d1.told(RoundClosed) and rig.d2.told(RoundClosed))
        assert rig.d2.told(RoundClosed)[0].included == (identity("d2").node,)

    simulate(scenario)


def test_more_participants_may_follow():
    """A device that came from another edge: it is asked here, and waited for; what was added stays."""

    async def scenario(rig):
        weights = await begun(rig, "d1")
        assert rig.d2.told(RoundOpen) == []
        await rig.d1.update(meta(rig, "d1", first="another/1"), flat(1.0))
        rig.opened(1, "d2", weights=weights)
        await until(lambda: rig.d2.told(RoundOpen))
        assert rig.edge.training.progress == {"job": (1, 1, 2)}
        await sends(rig, "d2", 3.0)
        await until(lambda: len(rig.cloud.updates) == 2)
        assert sums(rig)[0][0].nodes == nodes(rig, d2=10)

    simulate(scenario)


def test_who_does_not_take_part_is_refused_by_name():
    """Its update in the sum would cost the region the round. One that just came may be a participant: it is put off."""

    async def scenario(rig):
        await begun(rig, "d1")
        with pytest.raises(errors.Unavailable, match="d2 does not take part"):
            await sends(rig, "d2", 9.0)
        await asyncio.sleep(room.MOVED_S + 1)
        with pytest.raises(errors.BadUpdate, match="d2 does not take part in round 1 of job"):
            await sends(rig, "d2", 9.0)
        await sends(rig, "d1", 1.0)
        await until(lambda: sums(rig))
        assert sums(rig)[0][0].nodes == nodes(rig, d1=10)

    simulate(scenario)


def test_a_claim_of_absurd_samples_weighs_no_more_than_the_bound():
    """It would outweigh everybody else."""

    async def scenario(rig):
        await begun(rig, max_samples=30)
        await sends(rig, "d1", 8.0, 10**9)
        await sends(rig, "d2", 4.0, 10)
        await until(lambda: sums(rig))
        [(told, mean)] = sums(rig)
        assert told.nodes == nodes(rig, d1=30, d2=10)
        assert mean == pytest.approx(7.0)

    simulate(scenario)


def test_a_late_update_is_taken_from_whom_its_own_round_asked():
    """Though the open round asks others: it goes up alone. Its update of the open round would be a stranger's."""

    async def scenario(rig):
        plan = Plan(since=1)
        weights = await begun(rig, "d1", plan=plan)
        rig.cloud.say(RoundClosed("job", 1, (), since=1))
        rig.opened(2, "d2", weights=weights, plan=plan)
        await until(lambda: rig.d2.told(RoundOpen))
        await asyncio.sleep(room.MOVED_S + 1)
        await sends(rig, "d1", 3.0, number=1)
        await until(lambda: rig.cloud.updates)
        assert [(one.round, one.is_sum, one.nodes) for one, _ in rig.cloud.updates] == [(1, False, nodes(rig, d1=10))]
        with pytest.raises(errors.BadUpdate, match="d1 does not take part"):
            await sends(rig, "d1", 3.0, number=2)

    simulate(scenario)
