"""Curves on the cloud's disk, and as series."""

from __future__ import annotations

import asyncio

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from msrt.learning.notes import Judged, Note, worst_first
from msrt.world.simulation import Simulation
from msrt_cloud.curves import Curves
from msrt_cloud.observe_training import observe_training
from tests.cloud.jobs import Region
from tests.cloud.rig import simulate, until
from tests.cloud.test_training import started


def line(number, **more):
    return {"round": number, "accuracy": number / 10, "seconds": 1.5, "bytes_up": 10, "bytes_down": 20, **more}


def test_each_nodes_newest_word_is_kept_and_the_worst_served_come_first():
    """Of those that said something; over a restart once the round's line is written, and never among the rounds."""
    with Simulation(1) as sim:

        async def run():
            world = sim.world("c")
            curves = Curves(world.disk.store("curves"), world.offload)
            first = Judged.of(1, {"a": 5, "b": 7}, {"a": Note(1.0, 0.9, 2.0), "b": Note(), "c": Note(1.0, 0.1, 1.0)})
            assert worst_first(first) == ["a", "b"]
            await curves.judge("job", first)
            await curves.add("job", 1, line(1))
            await curves.judge("job", Judged.of(2, {"b": 8}, {"b": Note(2.0, 0.25, 1.0)}))
            await curves.add("job", 2, line(2))
            for again in (curves, Curves(world.disk.store("curves"), world.offload)):
                found = again.judged("job")
                assert found == {"a": Judged(1, 5, 1.0, 0.9, 2.0), "b": Judged(2, 8, 2.0, 0.25, 1.0)}
                assert worst_first(found) == ["b", "a"]
                assert [row["round"] for row in again.rounds("job")] == [1, 2]
            assert curves.judged("job-2") == {}

        sim.run(run(), until=60)


def test_a_round_that_is_done_again_has_one_line():
    """Sums are of what is there, after a restart too; jobs whose names begin alike are apart."""
    with Simulation(1) as sim:

        async def run():
            world = sim.world("c")
            curves = Curves(world.disk.store("curves"), world.offload)
            for number in (1, 2, 2):
                await curves.add("job", number, line(number))
            assert curves.totals("job").rounds == 2
            await curves.add("job-2", 1, line(1))
            await curves.end("job", parameters=5)
            await curves.end("job", published={"version": 1})
            for again in (curves, Curves(world.disk.store("curves"), world.offload)):
                found = again.totals("job")
                assert (found.rounds, found.seconds, found.bytes_up, found.bytes_down, found.best) == (
                    2,
                    3.0,
                    20,
                    40,
                    0.2,
                )
                assert again.ended("job") == {"parameters": 5, "published": {"version": 1}}
                assert len(again.rounds("job")) == 2
            assert curves.totals("nothing").rounds == 0
            await asyncio.sleep(0)

        sim.run(run(), until=60)


def test_sums_follow_each_line_and_the_end_of_a_long_curve_is_read_alone():
    """Nothing goes through all lines at each round; what is asked for is what came after the rounds that are known."""
    with Simulation(1) as sim:

        async def run():
            world = sim.world("c")
            curves = Curves(world.disk.store("curves"), world.offload)
            for number in range(1, 301):
                await curves.add("job", number, line(number))
                assert curves.totals("job").rounds == number
                assert curves.totals("job").last["round"] == number
            assert curves.totals("job") == Curves(world.disk.store("curves"), world.offload).totals("job")
            assert [row["round"] for row in curves.rounds("job", 297)] == [298, 299, 300]
            assert curves.rounds("job", 300) == []

        sim.run(run(), until=60)


def test_the_report_of_a_long_job_arrives():
    """Thousands of rounds fit no packet."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=5001)
        await north.round(job, 1)
        await until(lambda: rig.cloud.training.job(job).round == 1)
        store, state = rig.cloud.training.curves._store, rig.cloud.writer.state
        for number in range(2, 5001):
            store.put(f"{job}/{number:06d}", msgspec.json.encode(line(number) | {"stragglers": ["somebody"] * 4}))
        known = state.jobs[job]
        state.jobs[job] = msgspec.structs.replace(known, advanced=msgspec.structs.replace(known.advanced, round=5000))
        whole = await rig.operator.ask("train.report", job=job)
        assert [row["round"] for row in whole["rounds"]] == list(range(1, 5001))
        last = await rig.operator.ask("train.report", job=job, after=4998)
        assert [row["round"] for row in last["rounds"]] == [4999, 5000]

    simulate(scenario)


def test_jobs_are_series(monkeypatch):
    """Rounds, what the last one said, bytes each way, the state; a job that ended long ago is on no page."""

    async def scenario(rig):
        north = await Region(rig, "ab").join()
        job = await started(rig, rounds=2)
        await north.round(job, 1)
        await north.opened(job, 2)
        observe_training(rig.cloud)

        def seen():
            page = rig.cloud.metrics.render().decode()
            return {
                (sample.name, *sorted(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
                if sample.name.startswith("msrt_training_")
            }

        found = seen()
        assert found["msrt_training_round", job] == 1
        assert found["msrt_training_rounds", job] == 2
        assert found["msrt_training_loss", job] == 0.5
        assert found["msrt_training_nodes", job] == 2
        assert found["msrt_training_stragglers", job] == 2
        assert found["msrt_training_bytes_total", job, "up"] > 0
        assert found["msrt_training_state", job, "running"] == 1
        await north.round(job, 2)
        await until(lambda: rig.cloud.writer.state.jobs[job].ended)
        assert seen()["msrt_training_state", "finished", job] == 1
        monkeypatch.setattr("msrt_cloud.observe_training.LATELY_S", -1.0)
        assert not seen()

    simulate(scenario)
