"""New events and drift start the next job: when, with what, and never two at once."""

from __future__ import annotations

import msgspec
import pytest

from msrt import errors
from msrt.journal.facts import JobCreated, JobEnded
from msrt.journal.state import Job
from msrt.protocol.messages import Event
from msrt.training.settings import Trigger, parse_config
from msrt_cloud.job_views import trigger_row
from msrt_cloud.tally import Drift, Seen
from msrt_cloud.triggering import due
from tests.cloud.jobs import Region, bundle
from tests.cloud.rig import simulate, until
from tests.cloud.test_jobs import again

TAIL = '[trigger]\nmodel = "net"\nevents = 3\ndrift = 0.2\ndevices = 2\ncooldown_s = 20.0\n'
CONFIG = {"name": "job", "task": "a:B", "trigger": {"model": "net", "events": 3, "drift": 0.2, "devices": 2}}
TRIGGER = Trigger(events=3, drift=0.2, devices=2, model="net", cooldown_s=20.0)
OVER = Job(
    JobCreated("job", "d" * 64, b"s", CONFIG, events=10), ended=JobEnded("job", "finished", wall=100.0)
)  # fmt: skip
FAR = {node: Drift(0.3, 11, node) for node in "ab"}


@pytest.mark.parametrize(
    ("job", "seen", "wall", "cause"),
    [
        (OVER, Seen(13), 120.0, "3 new events of net"),
        (OVER, Seen(12), 120.0, ""),
        (OVER, Seen(13), 119.0, ""),
        (OVER, Seen(12, FAR), 120.0, "drift of net reported by a, b"),
        (OVER, Seen(12, {"a": Drift(0.3, 11, "a"), "b": Drift(0.1, 12, "b")}), 120.0, ""),
        (OVER, Seen(12, {"a": Drift(0.3, 11, "a"), "b": Drift(0.9, 10, "b")}), 120.0, ""),
        (msgspec.structs.replace(OVER, ended=None), Seen(99), 999.0, ""),
        (msgspec.structs.replace(OVER, held=True), Seen(99), 999.0, ""),
        (msgspec.structs.replace(OVER, ended=JobEnded("job", "stopped", wall=100.0)), Seen(99), 999.0, ""),
        (
            msgspec.structs.replace(OVER, ended=JobEnded("job", "failed", wall=100.0)),
            Seen(99),
            999.0,
            "89 new events of net",
        ),
    ],
    ids=[
        "events",
        "too few",
        "cools down",
        "drift",
        "too little",
        "before the job",
        "runs",
        "held",
        "stopped",
        "failed",
    ],
)
def test_when_the_next_job_is_due(job, seen, wall, cause):
    """Enough that is new since the job was created, and the cool-down over; never while it runs or is switched off."""
    assert due(TRIGGER, "net", job, seen, wall) == cause


def event(seq, **data):
    return Event("n", seq, "n", "cam", "net", 1, 0.0, data or {"label": 1})


async def finished(rig, north, job, rounds=1):
    for number in range(1, rounds + 1):
        await north.round(job, number)
    await until(lambda: rig.cloud.writer.state.jobs[job].ended)


async def run(rig, tail=TAIL):
    digest = await rig.operator.upload(bundle(rounds=1, tail=tail))
    return (await rig.operator.ask("train.run", bundle=digest))["job"]


def test_new_events_start_the_next_job_from_the_last_weights():
    """Once, after the cool-down, with the cause in the journal and in the status; counts survive the cloud."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        await rig.cloud.events.stored([event(1), event(2)])
        job = await run(rig)
        await finished(rig, north, job)
        jobs = rig.cloud.writer.state.jobs
        await rig.cloud.events.stored([event(number) for number in (2, 3, 4)])
        await again(rig, north)
        now = trigger_row(rig.cloud.training, rig.cloud.training.job(job))
        assert (now["events"], now["of"], now["watches"]) == (2, 3, True)
        await rig.cloud.events.stored([event(5)])
        jobs = rig.cloud.writer.state.jobs
        await until(lambda: "job-2" in jobs)
        created = jobs["job-2"].created
        assert created.wall >= jobs[job].ended.wall + 20.0
        assert (created.cause, created.after) == ("3 new events of net", job)
        opened = await north.opened("job-2", 1)
        assert opened.weights == jobs[job].weights
        await rig.cloud.events.stored([event(number) for number in range(6, 20)])
        [now] = await rig.operator.ask("train.status", job="job-2")
        assert (now["cause"], now["trigger"]["watches"]) == ("3 new events of net", False)
        await north.answer(opened)
        await until(lambda: jobs["job-2"].ended)
        assert sorted(jobs) == ["job", "job-2"]
        await until(lambda: "job-3" in jobs)
        assert jobs["job-3"].created.wall >= jobs["job-2"].ended.wall + 20.0

    simulate(scenario)


def test_drift_of_enough_devices_starts_the_next_job():
    """A report again of the same device is no second one."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await run(rig, TAIL.replace("events = 3", "events = 0"))
        await finished(rig, north, job)
        reports = [event(1, drift=0.5), event(2, drift=0.6)]
        await rig.cloud.events.stored(reports)
        await until(lambda: rig.cloud.world.wall() > rig.cloud.writer.state.jobs[job].ended.wall + 25)
        assert len(rig.cloud.writer.state.jobs) == 1
        other = msgspec.structs.replace(event(1, drift=0.4), node="m", name="m")
        await rig.cloud.events.stored([other])
        await until(lambda: "job-2" in rig.cloud.writer.state.jobs)
        assert rig.cloud.writer.state.jobs["job-2"].created.cause == "drift of net reported by m, n"

    simulate(scenario)


def test_a_trigger_is_switched_off_and_on():
    """By pausing the job that is over."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await run(rig)
        await finished(rig, north, job)
        await rig.operator.ask("train.pause", job=job)
        await rig.cloud.events.stored([event(number) for number in range(1, 9)])
        await until(lambda: rig.cloud.world.wall() > rig.cloud.writer.state.jobs[job].ended.wall + 25)
        assert len(rig.cloud.writer.state.jobs) == 1
        assert (await rig.operator.ask("train.status", job=job))[0]["state"] == "finished"
        await rig.operator.ask("train.resume", job=job)
        await until(lambda: "job-2" in rig.cloud.writer.state.jobs)

    simulate(scenario)


@pytest.mark.parametrize(
    ("tail", "why"),
    [('[trigger]\nmodel = "net"\n', "starts nothing"), ("[trigger]\nevents = 5\n", "watches no model")],
)
def test_a_trigger_that_can_never_start_anything_is_refused(tail, why):
    """Where the job is sent, with the fault."""
    with pytest.raises(errors.InvalidJob, match=why):
        parse_config(f'name = "job"\ntask = "a:B"\n{tail}')
