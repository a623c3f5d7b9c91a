"""A region's rounds: passed down, added up as they come, one update up, each device counted once."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import numpy as np
import pytest

from msrt import errors
from msrt.learning.compress import open_codec
from msrt.learning.events import Arrived, Joined, SendSum, Tick
from msrt.learning.rounds import Pace, RegionRound
from msrt.learning.vector import Layout, save
from msrt.protocol.messages import Plan, RoundClosed, RoundOpen, StreamOpen, TrainProgress, UpdateMeta
from msrt_edge.updates import UPDATE_LIMIT
from tests.edge.rig import identity, simulate, until

SIZE = 8


async def begun(rig, *devices, **more):
    """A round is open at the edge, and its devices know."""
    tensors = {"w": np.zeros(SIZE, np.float32)}
    weights = await rig.cloud.artifacts.put_bytes(save(Layout.of(tensors), tensors["w"]))
    rig.opened(more.pop("number", 1), *devices, weights=weights, **more)
    await until(lambda: rig.edge.training.progress)
    names = devices or rig.devices
    await until(lambda: all(not rig.here(name) or getattr(rig, name).told(RoundOpen) for name in names))
    return weights


def meta(rig, name, samples=10, *, number=1, first=None, **more):
    one = rig.edge
    first = first or one.training._me
    fields = {"encoding": "fp32", "size": SIZE, **more}
    return UpdateMeta("job", number, {identity(name).node: samples}, first, **fields)


def flat(value, size=SIZE):
    return np.full(size, value, np.float32).tobytes()


async def sends(rig, name, value, samples=10, **more):
    """A device sends an update of that value in every element."""
    await getattr(rig, name).update(meta(rig, name, samples, **more), flat(value))


def sums(rig):
    return [(one, open_codec(one.encoding, one.size).decode(data)) for one, data in rig.cloud.updates if one.is_sum]


def nodes(rig, **samples):
    return {identity(name).node: count for name, count in samples.items()}


def test_a_region_sends_one_weighted_mean():
    """When everybody has reported; the cloud heard how far it was before."""

    async def scenario(rig):
        await begun(rig)
        await sends(rig, "d1", 1.0, 10)
        assert rig.edge.training.progress == {"job": (1, 1, 2)}
        await until(lambda: rig.cloud.told(TrainProgress))
        await sends(rig, "d2", 4.0, 30)
        await until(lambda: sums(rig))
        [(told, mean)] = sums(rig)
        assert told.nodes == nodes(rig, d1=10, d2=30)
        assert told.first_parent == rig.edge.training._me
        assert mean == pytest.approx(3.25)
        await until(lambda: [p.reported for p in rig.cloud.told(TrainProgress)] == [1, 2])

    simulate(scenario)


def test_weights_that_came_along_are_passed_on():
    """Nobody fetches them, and they lie on no disk."""

    async def scenario(rig):
        weights = bytes(save(Layout.of({"w": np.zeros(SIZE, np.float32)}), np.zeros(SIZE, np.float32)))
        digest = hashlib.sha256(weights).hexdigest()
        rig.opened(1, weights=digest, along=(weights,))
        await until(lambda: all(getattr(rig, name).told(RoundOpen) for name in rig.devices))
        carried = [frames for message, frames in rig.d1.heard if isinstance(message, RoundOpen)]
        assert [bytes(frame) for frame in carried[0]] == [weights]
        await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 2.0)
        await until(lambda: sums(rig))
        assert not rig.edge.artifacts.has(digest)

    simulate(scenario)


def test_the_same_update_again_counts_once():
    """Its sender may not have heard the acknowledgement."""

    async def scenario(rig):
        await begun(rig)
        for _ in range(3):
            await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 3.0)
        await until(lambda: sums(rig))
        assert sums(rig)[0][0].nodes == nodes(rig, d1=10, d2=10)
        assert sums(rig)[0][1] == pytest.approx(2.0)
        assert not rig.edge.training._open["job"].payloads, "nothing is kept that was added or dropped"

    simulate(scenario)


def test_an_update_that_another_edge_got_first_goes_up_alone():
    """Only its first parent may have it in a sum; neither edge knows what the other did with it."""

    async def scenario(rig):
        await begun(rig)
        await sends(rig, "d1", 1.0, first="another/1")
        await until(lambda: rig.cloud.updates)
        [(told, data)] = rig.cloud.updates
        assert (told.is_sum, told.first_parent, data) == (False, "another/1", flat(1.0))
        await sends(rig, "d2", 3.0)
        await until(lambda: sums(rig))
        assert sums(rig)[0][0].nodes == nodes(rig, d2=10)

    simulate(scenario)


def test_a_straggler_is_not_waited_for_longer_than_the_quorum_took():
    """The sum goes up without it, and its late update alone."""

    async def scenario(rig):
        await begun(rig, deadline_s=100.0)
        opened = rig.sim.now
        await asyncio.sleep(2)
        await sends(rig, "d1", 1.0)
        await until(lambda: sums(rig))
        assert rig.sim.now - opened < 6.0
        await sends(rig, "d2", 5.0)
        await until(lambda: len(rig.cloud.updates) == 2)
        late, data = rig.cloud.updates[1]
        assert (late.is_sum, late.nodes, data) == (False, nodes(rig, d2=10), flat(5.0))

    simulate(scenario)


def test_a_region_seals_before_the_clouds_deadline():
    """Without its quorum too: what is there goes up in time to count."""

    async def scenario(rig):
        await begun(rig, deadline_s=10.0)
        opened = rig.sim.now
        await sends(rig, "d1", 1.0)
        await until(lambda: sums(rig))
        assert rig.sim.now - opened <= 8.2

    simulate(scenario, devices=("d1", "d2", "d3", "d4"))


def test_a_device_that_left_for_good_is_not_waited_for():
    """Its lease is over: the others are everybody."""

    async def scenario(rig):
        await begun(rig, deadline_s=1000.0)
        rig.sim.crash("d3")
        await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 1.0)
        began = rig.sim.now
        await until(lambda: sums(rig))
        assert rig.sim.now - began < 5

    simulate(scenario, devices=("d1", "d2", "d3"))


def test_a_device_that_joins_late_hears_what_is_open_and_what_is_over():
    """With what is left of the deadline."""

    async def scenario(rig):
        rig.sim.crash("d2")
        await until(lambda: not rig.seen("d2").alive)
        await begun(rig, deadline_s=60.0)
        await asyncio.sleep(10)
        rig.sim.restart("d2")
        await until(lambda: rig.here("d2") and rig.d2.told(RoundOpen))
        assert rig.d2.told(RoundOpen)[0].deadline_s < 50.5
        rig.closed()
        await until(lambda: rig.d1.told(RoundClosed))
        await rig.reborn("d1")
        await until(lambda: rig.here("d1") and rig.d1.told(RoundClosed))
        assert not rig.d1.told(RoundOpen)

    simulate(scenario)


def test_a_join_in_the_moment_of_the_deadline_loses_no_sum():
    """The clock seals a round, not whoever comes in: nobody would send that sum."""
    one = RegionRound("job", 1, SIZE, "edge/1", ["d1", "d2"], Pace(0.0, 10.0, 2))
    one.handle(Arrived("k", UpdateMeta("job", 1, {"d1": 10}, "edge/1", "fp32", SIZE)), 1.0)
    assert one.handle(Joined("d3"), 10.5) == []
    assert [type(action) for action in one.handle(Tick(), 10.6)] == [SendSum]


@pytest.mark.parametrize(
    ("fault", "payload", "why"),
    [
        ({}, flat(np.nan), "NaN"),
        ({}, flat(1.0)[:-1], "bytes"),
        ({}, b"", "bytes"),
        ({"size": 9}, flat(1.0, 9), "parameters"),
        ({"encoding": "zip"}, flat(1.0), "agreed was fp32"),
        ({"samples": 0}, flat(1.0), "samples"),
        ({"samples": 1 << 50}, flat(1.0), "samples"),
        ({"is_sum": True}, flat(1.0), "sum"),
    ],
    ids=["NaN", "short", "empty", "another-model", "encoding", "no-samples", "samples", "sum"],
)
def test_a_bad_update_is_refused_and_the_cloud_hears_of_it(fault, payload, why):
    """Its device is told why, nothing of it is added, and a good one later still counts."""

    async def scenario(rig):
        await begun(rig)
        with pytest.raises(errors.BadUpdate, match=why):
            await rig.d1.update(meta(rig, "d1", **fault), payload)
        await sends(rig, "d1", 2.0)
        await sends(rig, "d2", 2.0)
        await until(lambda: sums(rig))
        assert sums(rig)[0][0].nodes == nodes(rig, d1=10, d2=10)
        assert sums(rig)[0][1] == pytest.approx(2.0)
        if "is_sum" not in fault:
            assert [why in one.error for one, _ in rig.cloud.updates if one.error] == [True]

    simulate(scenario)


def test_a_device_that_could_not_train_says_so_and_is_not_waited_for():
    """Its error goes up by its name, and the round is sealed with the rest."""

    async def scenario(rig):
        await begun(rig)
        await rig.d1.update(meta(rig, "d1", error="out of memory"))
        await sends(rig, "d2", 2.0)
        await until(lambda: len(rig.cloud.updates) == 2)
        assert {one.error for one, _ in rig.cloud.updates} == {"out of memory", ""}

    simulate(scenario)


@pytest.mark.parametrize("size", [-1, UPDATE_LIMIT + 1])
def test_an_update_without_a_bound_is_refused_before_its_bytes_come(size):
    """One that grows, or is larger than any model here, would fill the edge's memory."""

    async def scenario(rig):
        await begun(rig)
        opened = StreamOpen(1, "update", msgspec.to_builtins(meta(rig, "d1")), size)
        with pytest.raises(errors.BadUpdate, match="at most"):
            rig.edge.training.stream(rig.seen("d1").peer, opened)

    simulate(scenario)


def test_a_device_speaks_for_itself_alone():
    """An update in another's name, or without sense, is refused before its bytes come."""

    async def scenario(rig):
        await begun(rig)
        with pytest.raises(errors.BadUpdate, match="of its own"):
            await rig.d1.update(meta(rig, "d2"), flat(1.0))
        digest = hashlib.sha256(b"").hexdigest()
        with pytest.raises(errors.BadUpdate, match="malformed"):
            await rig.d1.peer.push("update", {"job": 7}, b"", size=0, digest=digest)
        with pytest.raises(errors.Forbidden):
            await rig.d1.peer.push("artifact", {}, b"", size=0, digest=digest)

    simulate(scenario)


def test_an_update_of_a_round_that_is_over_is_turned_away_with_the_news():
    """Its sender may forget it; one of a round that is not open yet is kept by its sender."""

    async def scenario(rig):
        await begun(rig)
        rig.closed()
        await until(lambda: rig.d1.told(RoundClosed))
        with pytest.raises(errors.StreamCancelled, match="over"):
            await sends(rig, "d1", 1.0)
        await until(lambda: len(rig.d1.told(RoundClosed)) == 2)
        with pytest.raises(errors.Unavailable, match="not open"):
            await sends(rig, "d1", 1.0, number=2)

    simulate(scenario)


def test_what_the_cloud_has_counted_is_forgotten():
    """Payloads, the way up, and with the job's end its error feedback too."""

    async def scenario(rig):
        await begun(rig, plan=Plan("topk:0.5"))
        await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 3.0)
        await until(lambda: sums(rig))
        training = rig.edge.training
        assert training._feedback.jobs == ["job"]
        rig.closed(state="finished")
        await until(lambda: not training.progress)
        assert [training._feedback.jobs, training._models, training._locks] == [[], {}, {}]

    simulate(scenario)


def test_a_sum_waits_for_the_cloud_and_is_sent_when_it_says_the_round_again():
    """Collecting goes on while it is away; the deadline is the new one."""

    async def scenario(rig):
        weights = await begun(rig, deadline_s=600.0)
        rig.sim.crash("cloud")
        await until(lambda: rig.edge.uplink.peer is None)
        await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 3.0)
        await asyncio.sleep(10)
        rig.sim.restart("cloud")
        await rig.settled()
        await until(lambda: rig.cloud.peer is not None)
        rig.opened(1, weights=weights)
        await until(lambda: sums(rig))
        assert sums(rig)[0][1] == pytest.approx(2.0)

    simulate(scenario)


def test_a_sum_that_the_cloud_cannot_take_now_is_sent_again():
    """Its disk may be full; what it refuses for good is not repeated."""

    async def scenario(rig):
        await begun(rig)
        rig.cloud.refuses = [errors.DiskFull("no room"), errors.Overloaded("later")]
        await sends(rig, "d1", 1.0)
        await sends(rig, "d2", 3.0)
        await until(lambda: sums(rig))
        rig.cloud.refuses = [errors.BadUpdate("never")]
        await sends(rig, "d3", 1.0, first="another/1")
        await until(lambda: not rig.cloud.refuses)
        await asyncio.sleep(5)
        assert len(rig.cloud.updates) == 1

    simulate(scenario, devices=("d1", "d2", "d3"))


def test_a_round_whose_weights_cannot_be_had_is_not_opened():
    """It is said, and the edge lives on; the next one opens."""

    async def scenario(rig):
        rig.opened(1, weights="0" * 64)
        await until(lambda: b"round.not_opened" in rig.sim.log_bytes())
        assert not rig.edge.training.progress
        await begun(rig, number=2)

    simulate(scenario)


def test_a_bounded_number_of_updates_comes_in_at_a_time():
    """The others wait for credit, and none is lost, not even behind one that broke off."""

    async def scenario(rig):
        await begun(rig, deadline_s=600.0)
        training = rig.edge.training
        sink = training.stream(rig.seen("d3").peer, StreamOpen(9, "update", msgspec.to_builtins(meta(rig, "d3")), 32))
        await sink.write(0, bytes(8))
        waiting = [asyncio.ensure_future(sends(rig, name, 1.0)) for name in ("d1", "d2")]
        await asyncio.sleep(3)
        assert not any(one.done() for one in waiting)
        sink.abort(errors.Disconnected("it went away"))
        await asyncio.wait_for(asyncio.gather(*waiting), 30)
        assert training.progress == {"job": (1, 2, 3)}

    simulate(scenario, devices=("d1", "d2", "d3"), update_streams=1)
