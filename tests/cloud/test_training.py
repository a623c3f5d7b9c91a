"""The coordinator: jobs are accepted, named, resumed, stopped and shown; none can block another."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from msrt import errors
from msrt.protocol.messages import RoundClosed, RoundOpen, StreamOpen
from tests.cloud.jobs import Region, bundle
from tests.cloud.rig import device, simulate, until
from tests.runtime.hop.tree import identity


async def started(rig, **config):
    """A job that waits for its devices; its name."""
    return (await rig.operator.ask("train.run", bundle=await rig.operator.upload(bundle(**config))))["job"]


def test_jobs_of_one_name_get_names_of_their_own():
    """Also those that come at the same moment: the journal decides."""

    async def scenario(rig):
        names = await asyncio.gather(*(started(rig) for _ in range(3)))
        assert sorted(names) == ["job", "job-2", "job-3"]
        assert sorted(rig.cloud.writer.state.jobs) == sorted(names)

    simulate(scenario)


def test_a_bundle_that_is_none_is_not_a_job():
    """The operator hears why; nothing is written."""

    async def scenario(rig):
        digest = await rig.operator.upload(b"this is no zip")
        with pytest.raises(errors.InvalidJob):
            await rig.operator.ask("train.run", bundle=digest)
        assert rig.cloud.writer.state.jobs == {}

    simulate(scenario)


def test_a_job_without_devices_waits_and_says_for_what():
    """It is queued, and holds up no other one."""

    async def scenario(rig):
        stuck = await started(rig, min_nodes=5)
        north = await Region(rig, "ab").join()
        job = await started(rig, name="quick", rounds=1)
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        [row] = await rig.operator.ask("train.status", job=stuck)
        assert (row["state"], row["round"]) == ("queued", 0)
        assert "5 devices" in row["reason"]
        assert rig.cloud.writer.state.jobs[job].ended.state == "finished"

    simulate(scenario)


def test_the_bytes_of_a_round_are_shown_while_it_is_checkpointed():
    """A watched job's traffic never goes back: what is in no line of the curves yet counts as well, and once."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=1)
        training, shown = rig.cloud.training, []
        judge, add = training.curves.judge, training.curves.add

        async def before(*args):
            shown.append(training.rows(job)[0]["bytes_up"])
            await judge(*args)

        async def after(*args):
            await add(*args)
            shown.append(training.rows(job)[0]["bytes_up"])

        training.curves.judge, training.curves.add = before, after
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        assert shown == 2 * [training.rows(job)[0]["bytes_up"]]
        assert shown[0] > 0

    simulate(scenario)


def test_a_job_goes_on_after_a_restart_of_the_cloud():
    """From its last checkpoint, under the same name, with the round that was open opened again."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=2)
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].round == 1)
        weights = rig.cloud.writer.state.jobs[job].weights
        north.edge.heard.clear()
        rig.sim.crash("cloud")
        rig.sim.restart("cloud")
        await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set())
        await north.back()
        opened = await north.opened(job, 2)
        assert opened.weights == weights
        await north.answer(opened)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        assert rig.cloud.writer.state.jobs[job].round == 2

    simulate(scenario)


def test_a_stopped_job_is_over():
    """Edges are told, its process ends, a second stop is a conflict and an unknown name not found."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig)
        await north.opened(job, 1)
        await rig.operator.ask("train.stop", job=job)
        await until(lambda: any(one.state == "stopped" for one in north.edge.said(RoundClosed)))
        assert rig.cloud.writer.state.jobs[job].ended.reason == "by the operator"
        with pytest.raises(errors.Conflict, match="stopped already"):
            await rig.operator.ask("train.stop", job=job)
        for method in ("train.stop", "train.status", "train.report"):
            with pytest.raises(errors.NotFound, match="msrt train status"):
                await rig.operator.ask(method, job="nothing")

    simulate(scenario)


def test_an_edge_that_joins_hears_what_is_open_for_its_devices_and_what_is_over():
    """It may have been away for all of it; a device may come to it in the middle of a round."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        over = await started(rig, name="over")
        await rig.operator.ask("train.stop", job=over)
        job = await started(rig)
        await north.opened(job, 1)
        north.edge.report(device("a"), device("b", alive=False))
        late = await rig.edge("edge-s", "south", device("b"), device("c"))
        await until(lambda: late.said(RoundOpen))
        assert [(one.job, one.round, one.count) for one in late.said(RoundOpen)] == [(job, 1, 2)]
        assert late.said(RoundOpen)[0].participants == {identity("b").node: 1}
        assert [(one.job, one.state) for one in late.said(RoundClosed)] == [(over, "stopped")]

    simulate(scenario)


@pytest.mark.parametrize(
    ("change", "size", "error"),
    [
        ({"round": 9}, 10, errors.StreamCancelled),
        ({"job": "nothing"}, 10, errors.StreamCancelled),
        ({"nodes": "all"}, 10, errors.BadUpdate),
        ({}, 1 << 31, errors.BadUpdate),
        ({}, -1, errors.BadUpdate),
    ],
)
def test_an_update_that_cannot_count_is_not_received(change, size, error):
    """Another round's, an unknown job's, a malformed one, one too large or of no known size: refused unread."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        opened = await north.opened(await started(rig), 1)
        meta = msgspec.to_builtins(north.meta(opened, "a")) | change
        [peer] = rig.cloud._edges()
        with pytest.raises(error):
            rig.cloud.training.stream(peer, StreamOpen(1, "update", meta, size))

    simulate(scenario)


def test_bytes_that_were_damaged_on_the_way_are_not_counted():
    """Their digest is checked before anything is read of them."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        opened = await north.opened(await started(rig), 1)
        payload = north.payload(opened, "a")
        meta = msgspec.to_builtins(north.meta(opened, "a"))
        wrong = hashlib.sha256(b"else").hexdigest()
        with pytest.raises(errors.Corrupt):
            await north.edge.peer.push("update", meta, payload, size=len(payload), digest=wrong)
        assert (await rig.operator.ask("train.status", job="job"))[0]["reported"] == 0

    simulate(scenario)


def test_the_report_has_a_line_for_each_round():
    """Losses, nodes, bytes up and down, and the share of the float32 size."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=2)
        for number in (1, 2):
            await north.round(job, number)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        report = await rig.operator.ask("train.report", job=job)
        assert [row["round"] for row in report["rounds"]] == [1, 2]
        assert {row["nodes"] for row in report["rounds"]} == {2}
        assert report["accuracy"] == report["rounds"][-1]["accuracy"]
        assert report["update_bytes_ratio"] > 1

    simulate(scenario)
