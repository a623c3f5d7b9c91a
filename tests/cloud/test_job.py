"""One running job: rounds that close by quorum or are given up, bad updates that do not count, and its end."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import numpy as np
import pytest

from msrt import errors
from msrt.learning.compress import open_codec
from msrt.learning.vector import load
from msrt.protocol.messages import FleetReport, RoundClosed, RoundOpen
from tests.cloud.jobs import Region, bundle
from tests.cloud.rig import device, simulate, until
from tests.flows.trainer import SIZE, SimulatedTrainer, known_mean
from tests.runtime.hop.tree import identity


def running(scenario, names="ab", workshop=None, tail="", **config):
    """Run `scenario(north, job)` with a job started over the devices of one edge."""

    async def run(rig):
        north = await Region(rig, names).join()
        digest = await rig.operator.upload(bundle(tail=tail, **config))
        job = (await rig.operator.ask("train.run", bundle=digest))["job"]
        await scenario(north, job)

    simulate(run, workshop=workshop)


def fact(north, job):
    return north.rig.cloud.writer.state.jobs[job]


async def ended(north, job):
    await until(lambda: fact(north, job).ended, 300)
    return fact(north, job).ended


def test_a_round_adds_the_weighted_mean_of_its_updates():
    """To the weights of the round before; the checkpoint is in the journal before the senders may forget."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        assert opened.participants.keys() == {identity(name).node for name in "ab"}
        await north.answer(opened)
        await until(lambda: [one for one in north.edge.said(RoundClosed) if one.round == 1])
        assert fact(north, job).round == 1
        included = {node: samples for name in "ab" for node, samples in north.meta(opened, name).nodes.items()}
        weights = load(await north.rig.cloud.artifacts.read(fact(north, job).weights))[1]
        assert np.allclose(weights, known_mean(job, 1, included), atol=1e-6)
        assert set(fact(north, job).advanced.included) == included.keys()

    running(scenario)


def test_only_selected_devices_take_part():
    """By the job's own selector."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        assert opened.participants == {identity("b").node: 0}

    running(scenario, select="name=b")


@pytest.mark.parametrize("fault", ["nan", "short", "huge", "stranger", "other size"])
def test_a_bad_update_is_refused_and_the_round_goes_on(fault):
    """Its sender is told; the others' sum is as if it had never come."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        payload = bytes(open_codec("fp32", SIZE).encode(np.full(SIZE, 1e30 if fault == "huge" else 1.0, np.float32)))
        last = {"nan": np.float32(np.nan).tobytes(), "short": b""}.get(fault, payload[-4:])
        payload = payload[:-4] + last
        change = {
            "stranger": {"nodes": {identity("stranger").node: 3}},
            "other size": {"size": SIZE + 1},
        }.get(fault, {})
        with pytest.raises(errors.BadUpdate):
            await north.send(north.meta(opened, "a", **change), payload)
        await north.answer(opened, "bc")
        await until(lambda: fact(north, job).round == 1)
        assert set(fact(north, job).advanced.included) == {identity(name).node for name in "bc"}

    running(scenario, "abc", deadline_s=10.0)


def test_a_node_that_failed_is_not_waited_for():
    """It said why; the round closes with the others at once."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        begun = north.rig.cloud.world.now()
        await north.send(north.meta(opened, "a", error="job_failed: out of memory", size=0), b"")
        await north.answer(opened, "b")
        await until(lambda: fact(north, job).round == 1)
        assert north.rig.cloud.world.now() - begun < 5

    running(scenario, deadline_s=100.0)


def test_a_device_that_left_is_not_waited_for_once_there_is_a_quorum():
    """One that only changes its edge has a few seconds to come back."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        await north.answer(opened, "b")
        begun = north.rig.cloud.world.now()
        north.edge.report(device("b"))
        await until(lambda: fact(north, job).round == 1)
        assert north.rig.cloud.world.now() - begun < 20

    running(scenario, deadline_s=100.0)


def test_rounds_without_a_quorum_are_given_up_and_then_the_job():
    """No job waits for ever: after so many in a row it fails, with the reason."""

    async def scenario(north, job):
        end = await ended(north, job)
        assert end.state == "failed"
        assert "5 rounds in a row were given up" in end.reason
        assert fact(north, job).round == 0

    running(scenario, deadline_s=2.0)


def test_one_bad_round_is_no_failure():
    """It is opened again under the same number, and what was trained for it still counts."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        north.edge.heard.clear()
        again = await north.opened(job, 1)
        assert again.weights == opened.weights
        await north.answer(again)
        assert (await ended(north, job)).state == "finished"

    running(scenario, rounds=1, deadline_s=3.0)


def test_rounds_that_fail_at_once_are_opened_again_after_a_pause():
    """What all devices lack for a moment must not cost all the tries of a job."""

    async def scenario(north, job):
        times = []
        for number in range(3):
            opened = await north.opened(job, 1)
            north.edge.heard.clear()
            times.append(north.rig.cloud.world.now())
            for name in "ab":
                await north.send(north.meta(opened, name, error=f"disk_full: no space {number}", size=0), b"")
        assert [later - before for before, later in itertools.pairwise(times)] == pytest.approx([2.0, 4.0], abs=0.5)

    running(scenario)


def test_each_edge_hears_of_its_own_participants_whatever_the_fleets_size():
    """No message speaks of all of them; a device of another edge is none of its business."""

    async def run(rig):
        many = [msgspec.structs.replace(device("x"), node=f"{n:026d}", name=f"x-{n}") for n in range(7000)]
        south = await rig.edge("edge-s", "south")
        for part in range(14):
            some = tuple(many[part * 500 : part * 500 + 500])
            south.peer.send(FleetReport({}, some, {}, 1, part, part == 13))
        await until(lambda: len(rig.cloud.fleet.edges[south.one.node].devices) == 7000)
        north = await Region(rig, "ab").join()
        digest = await rig.operator.upload(bundle(max_nodes=6000))
        job = (await rig.operator.ask("train.run", bundle=digest))["job"]
        await until(lambda: south.said(RoundOpen))
        [one] = south.said(RoundOpen)
        assert one.count == 7002
        drawn = [(await north.opened(job, 1)).participants] if north.edge.said(RoundOpen) else []
        everyone = one.participants | (drawn[0] if drawn else {})
        places = sorted(everyone.values())
        assert len(set(places)) == 6000
        assert 0 <= places[0] < places[-1] < 7002
        assert not one.participants.keys() & {identity("a").node, identity("b").node}

    simulate(run)


def test_a_claim_of_absurd_samples_counts_as_the_bound():
    """Of one that came alone as of one in a sum."""

    async def scenario(north, job):
        opened = await north.opened(job, 1)
        assert opened.max_samples == 50
        a, b = identity("a").node, identity("b").node
        await north.send(
            north.meta(opened, "a", nodes={a: 10**8}), open_codec("fp32", SIZE).encode(np.full(SIZE, 1.0, np.float32))
        )
        await north.send(
            north.meta(opened, "b", nodes={b: 25}), open_codec("fp32", SIZE).encode(np.full(SIZE, 4.0, np.float32))
        )
        before = load(await north.rig.cloud.artifacts.read(opened.weights))[1]
        await until(lambda: fact(north, job).round == 1)
        after = load(await north.rig.cloud.artifacts.read(fact(north, job).weights))[1]
        assert np.allclose(after - before, 2.0, atol=1e-6)

    running(scenario, max_samples=50)


class NoWeights(SimulatedTrainer):
    async def initial(self, within):
        raise errors.JobFailed("the task has no model")


def test_a_workshop_that_fails_ends_the_job_with_its_words():
    """And its process: nothing is left over."""
    made = []

    def workshop(_job):
        made.append(NoWeights())
        return made[-1]

    async def scenario(north, job):
        end = await ended(north, job)
        assert (end.state, end.reason) == ("failed", "the task has no model")
        assert made[0].config is None

    running(scenario, workshop=workshop)


def test_a_finished_job_can_say_what_training_together_was_worth():
    """With [baseline] it measures each node alone and all data pooled."""

    async def scenario(north, job):
        await north.round(job, 1)
        await ended(north, job)
        report = north.rig.cloud.training.report(job)
        assert (report["alone_mean"], report["pooled"], report["parameters"]) == (0.5, 0.9, SIZE)

    running(scenario, rounds=1, tail="[baseline]\n")


class Incomparable(SimulatedTrainer):
    """The cloud has none of the nodes' data."""

    async def baseline(self, nodes, within):
        raise errors.JobFailed("training: FileNotFoundError: no wisdm")


def test_a_job_whose_baselines_cannot_be_measured_is_finished_all_the_same():
    """Its rounds are worth as much without: what is missing and why stands in its state and its report."""

    async def scenario(north, job):
        await north.round(job, 1)
        end = await ended(north, job)
        assert (end.state, end.reason) == (
            "finished", "trained, and its baselines were not measured: training: FileNotFoundError: no wisdm",
        )  # fmt: skip
        report = north.rig.cloud.training.report(job)
        assert (report["alone_mean"], len(report["rounds"]), report["reason"]) == (None, 1, end.reason)

    running(scenario, rounds=1, tail="[baseline]\n", workshop=lambda _job: Incomparable())


class Slow(SimulatedTrainer):
    """It takes a while to compare."""

    async def baseline(self, nodes, within):
        await asyncio.sleep(30)
        return await super().baseline(nodes, within)


def test_a_cloud_that_dies_over_the_baselines_says_that_they_are_missing():
    """Whom they are of is not known any more; the job is finished all the same."""

    async def scenario(north, job):
        await north.round(job, 1)
        rig = north.rig
        await until(lambda: rig.cloud.training.rows(job)[0]["reason"] == "measuring the baselines")
        rig.sim.crash("cloud")
        rig.sim.restart("cloud")
        await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set())
        end = await ended(north, job)
        assert (end.state, end.reason.partition(": ")[2]) == (
            "finished", "the cloud was started again after the last round",
        )  # fmt: skip

    running(scenario, rounds=1, tail="[baseline]\n", workshop=lambda _job: Slow())
