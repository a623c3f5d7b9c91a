"""The operator's desk for training: pause and resume, lists, lines, warm starts, refusals of the gate."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.protocol.messages import RoundClosed, RoundOpen, TrainProgress
from tests.cloud.jobs import Region, bundle
from tests.cloud.rig import device, simulate, until
from tests.cloud.test_training import started
from tests.flows.trainer import SimulatedTrainer


async def row(rig, job):
    return (await rig.operator.ask("train.status", job=job))[0]


async def again(rig, north):
    """The cloud is killed and started again."""
    rig.sim.crash("cloud")
    rig.sim.restart("cloud")
    await until(lambda: rig.cloud is not None and rig.cloud.ready.is_set())
    await north.back()


def paused(north):
    return any(one.state == "paused" for one in north.edge.said(RoundClosed))


def test_a_paused_job_ends_its_round_and_opens_no_other():
    """Devices are told to let its process go once the round is checkpointed; resumed it goes on with the next."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=2)
        opened = await north.opened(job, 1)
        await rig.operator.ask("train.pause", job=job)
        assert (await row(rig, job))["state"] == "paused"
        assert not paused(north)
        await north.answer(opened)
        await until(lambda: paused(north))
        now = await row(rig, job)
        assert (now["round"], now["reason"]) == (1, "paused by the operator")
        with pytest.raises(errors.Conflict, match="paused already"):
            await rig.operator.ask("train.pause", job=job)
        north.edge.heard.clear()
        await rig.operator.ask("train.resume", job=job)
        await north.round(job, 2)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        first = north.edge.said(RoundClosed, RoundOpen)[0]
        assert (first.round, first.state) == (1, "running")
        with pytest.raises(errors.Conflict, match="finished already"):
            await rig.operator.ask("train.resume", job=job)

    simulate(scenario)


def test_a_pause_survives_a_restart_of_the_cloud():
    """It is a fact of the journal; an edge that comes back hears it, and no round opens."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        held = await started(rig, min_nodes=3)
        await rig.operator.ask("train.pause", job=held)
        north.edge.heard.clear()
        await again(rig, north)
        await until(lambda: any(one.job == held and one.state == "paused" for one in north.edge.said(RoundClosed)))
        await rig.edge("edge-s", "south", device("c"))
        assert (await row(rig, held))["state"] == "paused"
        assert north.edge.said(RoundOpen) == []
        await rig.operator.ask("train.resume", job=held)
        await north.round(held, 1)

    simulate(scenario)


def test_a_paused_job_can_be_stopped():
    """It is over then, and not paused."""

    async def scenario(rig):
        await Region(rig, "ab").join()
        job = await started(rig)
        await rig.operator.ask("train.pause", job=job)
        await rig.operator.ask("train.stop", job=job)
        assert (await row(rig, job))["state"] == "stopped"

    simulate(scenario)


def test_who_is_waited_for_is_named():
    """By what its edge says; of an edge that has said nothing yet, all that have not reported."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        await rig.edge("edge-s", "south", device("c"))
        job = await started(rig)
        opened = await north.opened(job, 1)
        assert len((await row(rig, job))["stragglers"]) == 3
        [missing] = [node for node, index in opened.participants.items() if index == 1]
        north.edge.peer.send(TrainProgress(job, 1, 1, 2, (missing,)))
        await until(lambda: rig.cloud.training.running(job).regions)
        now = await row(rig, job)
        assert (now["reported"], now["expected"], len(now["stragglers"])) == (1, 3, 2)

    simulate(scenario)


def test_lists_are_of_a_state_a_name_and_a_time():
    """The newest so many, oldest first."""

    async def scenario(rig):
        for name in ("alpha", "beta", "alpha-x"):
            await started(rig, name=name, min_nodes=9)
        await rig.operator.ask("train.stop", job="beta")
        made = rig.cloud.writer.state.jobs["alpha-x"].created.wall

        async def names(**asked):
            return [one["job"] for one in await rig.operator.ask("train.list", **asked)]

        assert await names() == ["alpha", "beta", "alpha-x"]
        assert await names(states=["stopped", "paused"]) == ["beta"]
        assert await names(name="alpha") == ["alpha", "alpha-x"]
        assert await names(limit=1) == await names(since=made) == ["alpha-x"]
        assert await names(until=made) == ["alpha", "beta"]

    simulate(scenario)


def test_lines_come_from_the_cloud_and_through_edges():
    """Each node's, or why there are none; an unknown job or node is one clear sentence."""

    async def scenario(rig):
        await Region(rig, "ab").join()
        job = await started(rig)
        tails = rig.cloud.setup.tails
        for number in range(5):
            tails.of(job).add(f"making {number}")
        rows = {one["name"]: one for one in await rig.operator.ask("train.logs", job=job, lines=2)}
        assert rows["cloud"]["lines"] == ["making 3", "making 4"]
        assert rows["cloud"]["next"] == 5
        assert rows["a"]["error"]
        after = {rig.cloud.identity.node: 4}
        [own] = await rig.operator.ask("train.logs", job=job, node="cloud", after=after)
        assert own["lines"] == ["making 4"]
        for wrong in ({"job": "nothing"}, {"job": job, "node": "nobody"}):
            with pytest.raises(errors.NotFound):
                await rig.operator.ask("train.logs", **wrong)

    simulate(scenario)


def test_a_job_can_start_from_the_weights_of_another():
    """Which keeps them: the first round of the new one forgets nothing of the old one's."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=1)
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        weights = rig.cloud.writer.state.jobs[job].weights
        digest = await rig.operator.upload(bundle(rounds=1))
        second = (await rig.operator.ask("train.run", bundle=digest, start=job))["job"]
        opened = await north.opened(second, 1)
        assert opened.weights == weights
        await north.answer(opened)
        await until(lambda: rig.cloud.writer.state.jobs[second].ended)
        assert rig.cloud.artifacts.has(weights)
        assert rig.cloud.training.report(second)["after"] == job
        with pytest.raises(errors.NotFound, match="nothing"):
            await rig.operator.ask("train.run", bundle=digest, start="nothing")

    simulate(scenario)


def test_a_job_that_has_no_weights_starts_no_other():
    """And one that still trains neither: they change."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=3)
        digest = await rig.operator.upload(bundle())
        with pytest.raises(errors.Conflict, match="no weights yet"):
            await rig.operator.ask("train.run", bundle=digest, start=job)
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].round == 1)
        with pytest.raises(errors.Conflict, match="still trains"):
            await rig.operator.ask("train.run", bundle=digest, start=job)

    simulate(scenario)


def test_a_round_without_some_names_them():
    """In its line of the report."""

    async def scenario(rig):
        north = await Region(rig, "abc").join()
        job = await started(rig, rounds=1, deadline_s=5.0, quorum=0.5)
        await north.round(job, 1, "ab")
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        [line] = rig.cloud.training.report(job)["rounds"]
        assert (line["absent"], len(line["stragglers"]), line["failed"]) == (1, 1, {})

    simulate(scenario)


class Judged(SimulatedTrainer):
    """Its model is none."""

    async def export(self, weights, within):
        found = await super().export(weights, within)
        assert found.onnx
        return found


def test_a_refusal_of_the_gate_is_in_state_and_report():
    """What was measured before it is not lost: the evaluation stands beside the refusal."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        tail = '[baseline]\n[publish]\nmodel = "blobs"\nrollout = true\n'
        digest = await rig.operator.upload(bundle(rounds=1, tail=tail))
        job = (await rig.operator.ask("train.run", bundle=digest))["job"]
        await north.round(job, 1)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        now, report = await row(rig, job), rig.cloud.training.report(job)
        assert now["state"] == "failed"
        assert now["reason"].startswith("trained, and not published: ")
        assert report["refused"]["code"] == "invalid_model"
        assert (report["alone_mean"], report["pooled"], report["published"]) == (0.5, 0.9, None)

    simulate(scenario, workshop=lambda _job: Judged())
