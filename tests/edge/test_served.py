"""What an edge tells its cloud of how it served: changes only, bounded, and all of it to a cloud that is new."""

from __future__ import annotations

import asyncio

from msrt.dispatch.policy import ModelPolicy
from msrt.journal.facts import PolicySet
from msrt.protocol.messages import ServingReport
from msrt.serving.tally import quantile
from msrt_edge.served import ROWS
from tests.edge.policed import asks, scores
from tests.edge.rig import fail, pushed, simulate, until


def latest(rig):
    """(model, version) to its last row."""
    return {(row.model, row.version): row for report in rig.cloud.told(ServingReport) for row in report.rows}


def test_the_cloud_hears_what_was_served():
    """Answers, errors with their code, batches and times; nothing before there was a request."""

    async def scenario(rig):
        await rig.serve()
        await asyncio.sleep(5)
        assert rig.cloud.told(ServingReport) == []
        await asyncio.gather(*(rig.edge.service.infer(asks(n)) for n in range(5)))
        await until(lambda: ("net", 1) in latest(rig))
        row = latest(rig)["net", 1]
        assert (row.answered, row.failed, row.rows) == (5, {}, 5)
        assert sum(row.latency.values()) == 5
        assert quantile(row.latency, 0.5) > 0
        told = len(rig.cloud.told(ServingReport))
        await asyncio.sleep(10)
        assert len(rig.cloud.told(ServingReport)) == told, "nothing changed, nothing is said"

    simulate(scenario)


def test_what_a_device_could_not_do_is_a_fault_though_another_did_it():
    """The caller has its answer; the version its fault."""

    async def scenario(rig):
        await rig.serve()
        rig.d1.answers = fail("model_failed")
        for n in range(8):
            await rig.edge.service.infer(asks(n))
        await until(lambda: ("net", 1) in latest(rig) and latest(rig)["net", 1].answered == 8)
        row = latest(rig)["net", 1]
        assert row.failed == {}
        assert row.faults >= 1

    simulate(scenario)


def test_a_cloud_that_comes_back_hears_everything_again():
    """It may have forgotten; what did not change meanwhile is said as well."""

    async def scenario(rig):
        await rig.serve()
        await rig.edge.service.infer(asks())
        await until(lambda: ("net", 1) in latest(rig))
        await rig.reborn("cloud")
        await until(lambda: rig.cloud.peer is not None and ("net", 1) in latest(rig))
        assert latest(rig)["net", 1].answered == 1

    simulate(scenario)


def test_many_versions_come_in_parts_and_none_waits_for_ever():
    """A bounded report; those that still change do not push the others out."""

    async def scenario(rig):
        await rig.serve()
        for number in range(3 * ROWS):
            rig.edge.tally.row(f"m{number}", 1).passed(0.001)
        for _ in range(10):
            rig.edge.tally.row("m0", 1).passed(0.001)
            await asyncio.sleep(2)
        assert {f"m{number}" for number in range(3 * ROWS)} <= {model for model, _ in latest(rig)}
        assert max(len(report.rows) for report in rig.cloud.told(ServingReport)) <= ROWS

    simulate(scenario)


def test_copies_for_a_shadow_are_nobodys_requests():
    """They are told beside the answers of what serves, and are in no latency."""

    async def scenario(rig):
        await rig.cloud.rollout(1)
        await rig.cloud.writer.append(pushed(2))
        await rig.cloud.writer.append(PolicySet("net", ModelPolicy(shadow=2, shadow_share=1.0)))
        await until(lambda: "net" in rig.edge.follower.state.policies and ("net", 2) in rig.edge.fleet.manifests)
        for name in rig.devices:
            getattr(rig, name).answers = scores([1.0, 2.0, 0.0])
            getattr(rig, name).report(("net", 1), ("net", 2))
        await until(lambda: rig.edge.fleet.ready_model("net") == len(rig.devices))
        for n in range(6):
            await rig.edge.service.infer(asks(n))
            await asyncio.sleep(0.5)
        await until(lambda: ("net", 2) in latest(rig) and latest(rig)["net", 2].copies >= 3)
        row = latest(rig)["net", 2]
        assert (row.answered, row.latency) == (0, {})
        assert row.judged >= 3
        await until(lambda: latest(rig)["net", 1].answered == 6)

    simulate(scenario)
