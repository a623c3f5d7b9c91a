"""From a reading to a durable event: none lost, none twice, bounded, with the edge away all the time."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from msrt.errors import ModelFailed
from msrt.hop.durable import DurableSender
from msrt.inference.bundle import StateTensor
from msrt.inference.slots import Slots
from msrt.inference.stateful import StatefulModel
from msrt.journal.outbox import Outbox
from msrt.protocol import wire
from msrt.protocol.messages import Event, TensorSpec
from msrt.settings import SourceConfig
from msrt.world.simulation import Simulation
from msrt_device.sources.watch import VALUES, Watch
from tests.cloud.test_states import renamed
from tests.device.rig import slots_with, until
from tests.runtime.inference.models import mlp


class Bench:
    """One watch on a disk of its own; there is no edge. `crash` loses what was not committed and starts it again."""

    def __init__(self, world, config, slots, bound=1 << 20):
        self.world, self.config, self.slots, self.bound = world, config, slots, bound
        self.start()

    def start(self):
        store = self.world.disk.store("events")
        outbox = Outbox(store, "events", bound_bytes=self.bound)
        self.sender = DurableSender(self.world, outbox, lambda data: wire.unpack(data, Event))
        self.watch = Watch(self.world, store, self.config, self.slots, self.sender, ("node1", "cam", "eu"))
        self.task = asyncio.get_running_loop().create_task(self.watch.run())

    def crash(self):
        self.task.cancel()
        self.world = dataclasses.replace(self.world, disk=self.world.disk.crash())
        self.start()

    def events(self):
        return [wire.unpack(data, Event) for _, data in self.sender.outbox.unacked(0, 10_000)]

    def numbers(self):
        """Which readings became events."""
        return [event.data["reading"] for event in self.events()]

    async def ended(self):
        await until(lambda: self.watch.state == "ended")


def watching(scenario, path, *, slots=None, bound=1 << 20, **config):
    """Run `scenario(bench)` with a source that replays `path`."""
    settings = SourceConfig(**{"name": "belt", "model": "net", "kind": "replay", "path": str(path), **config})
    with Simulation(1) as sim:

        async def run():
            bench = Bench(sim.world("d"), settings, slots_with() if slots is None else slots, bound)
            await scenario(bench)
            bench.task.cancel()

        sim.run(run(), until=600)


@pytest.fixture
def table(tmp_path):
    """Thirty readings of four numbers."""
    path = tmp_path / "table.npy"
    np.save(path, np.random.default_rng(4).normal(size=(30, 4)).astype(np.float32))
    return path


def test_each_reading_becomes_one_event_with_the_edge_away(table):
    """On disk, in order, with who saw it, by which version, and what the model found."""

    async def scenario(bench):
        await bench.ended()
        assert bench.numbers() == list(range(30))
        first = bench.events()[0]
        assert (first.node, first.name, first.region, first.source) == ("node1", "cam", "eu", "belt")
        assert (first.model, first.version, first.seq) == ("net", 1, 1)
        assert first.data["label"] == first.data["index"] == int(np.argmax(first.data["values"]))
        assert first.data["score"] == max(first.data["values"])

    watching(scenario, table)


def test_labels_name_the_best_class_and_long_outputs_are_cut(table):
    """An event stays small whatever the model puts out."""
    wide = slots_with(mlp(sizes=(4, 100)), outputs=(TensorSpec("y", "FP32", (-1, 100)),), labels=("cat",) * 100)

    async def scenario(bench):
        await bench.ended()
        assert {event.data["label"] for event in bench.events()} == {"cat"}
        assert {len(event.data["values"]) for event in bench.events()} == {VALUES}

    watching(scenario, table, slots=wide)


def test_one_number_is_a_value(table):
    """A model that measures has no classes."""
    meter = slots_with(mlp(sizes=(4, 1)), outputs=(TensorSpec("y", "FP32", (-1, 1)),))

    async def scenario(bench):
        await bench.ended()
        assert bench.events()[0].data.keys() == {"value", "reading"}

    watching(scenario, table, slots=meter)


def test_readings_wait_for_their_model(table):
    """Until it is placed and loaded nothing is read past; the state says what is missing."""
    empty = Slots()

    async def scenario(bench):
        await until(lambda: bench.watch.state == "waiting for net")
        await asyncio.sleep(5)
        assert bench.watch.readings == 0
        bench.watch._slots = slots_with()
        await bench.ended()
        assert bench.numbers() == list(range(30))

    watching(scenario, table, slots=empty)


def test_a_crash_loses_no_reading_and_repeats_none(table):
    """An event and the place in the recording are one commit."""

    async def scenario(bench):
        for least in (5, 17):
            await until(lambda: len(bench.sender.outbox) >= least)  # noqa: B023 - called within the turn
            bench.crash()
        await bench.ended()
        assert bench.numbers() == list(range(30))
        assert [event.seq for event in bench.events()] == list(range(1, 31))

    watching(scenario, table, interval_s=0.1)


def test_the_oldest_events_go_first_and_are_counted(table):
    """A bound in bytes; what tells most is the newest."""

    async def scenario(bench):
        await bench.ended()
        kept = bench.numbers()
        assert kept == list(range(30 - len(kept), 30))
        assert 0 < len(kept) < 30
        assert bench.sender.outbox.dropped == 30 - len(kept)
        assert bench.sender.outbox.size <= 2000

    watching(scenario, table, bound=2000)


def test_a_full_disk_holds_readings_back_and_loses_none(table):
    """The state says so; with room again it goes on where it was."""

    async def scenario(bench):
        await until(lambda: len(bench.sender.outbox) >= 5)
        bench.world.disk.full = True
        await until(lambda: "disk" in bench.watch.state)
        held = bench.watch.readings
        await asyncio.sleep(10)
        assert bench.watch.readings == held
        bench.world.disk.full = False
        await bench.ended()
        assert bench.numbers() == list(range(30))

    watching(scenario, table, interval_s=0.1)


def test_a_reading_that_does_not_fit_is_counted_and_skipped(tmp_path):
    """The ones after it become events, and it is not tried again after a restart."""
    (tmp_path / "a.csv").write_text("1,2,3,4\n1,2\n5,6,7,8\n")

    async def scenario(bench):
        await bench.ended()
        assert bench.numbers() == [0, 2]
        assert bench.watch.refused == 1
        bench.crash()
        await bench.ended()
        assert bench.numbers() == [0, 2]

    watching(scenario, tmp_path / "a.csv")


def test_weak_findings_are_no_events(table):
    """`min_score` keeps what reaches it, and only that."""

    async def all_of_them(bench):
        await bench.ended()
        scores.extend(event.data["score"] for event in bench.events())

    scores = []
    watching(all_of_them, table)
    middle = sorted(scores)[15]

    async def scenario(bench):
        await bench.ended()
        assert bench.numbers() == [n for n, score in enumerate(scores) if score >= middle]

    watching(scenario, table, min_score=middle)


def test_on_change_speaks_only_when_the_label_changes(table):
    """Ten alike are one event."""

    async def scenario(bench):
        await bench.ended()
        labels = [event.data["label"] for event in bench.events()]
        assert all(a != b for a, b in pairwise(labels))
        assert 1 < len(labels) < 30

    watching(scenario, table, on_change=True)


@pytest.mark.parametrize(("config", "word"), [({"kind": "lidar"}, "lidar"), ({"path": "/nowhere"}, "not exist")])
def test_a_source_that_cannot_work_says_so_and_ends(table, config, word):
    """Nothing is tried for ever that only the config can mend."""

    async def scenario(bench):
        await until(bench.task.done)
        assert word in bench.watch.state

    watching(scenario, **{"path": table, **config})


PLUGIN = """
import numpy as np
tries = []

async def shaky(world, config, skip):
    tries.append(skip)
    for number in range(skip, 6):
        if len(tries) < 3 and number == 2 * len(tries):
            raise {error}
        yield config.options["scale"] * np.full(4, number, np.float32)
"""


@pytest.mark.parametrize("error", ["OSError('unplugged')", "KeyError('a bug')", "EOFError()"])
def test_a_plug_in_that_fails_is_opened_again_where_it_was(tmp_path, monkeypatch, error):
    """Found by its entry point; its sensor's faults and its own bugs cost no reading and never the device."""
    fault = error.partition("(")[0]
    name = f"shaky_{fault.lower()}"
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(error=error))
    info = tmp_path / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[msrt.sources]\n{name} = {name}:shaky\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def scenario(bench):
        await until(lambda: fault in bench.watch.state)
        await bench.ended()
        assert bench.numbers() == list(range(6))
        assert bench.watch.failures == 2

    watching(scenario, tmp_path, kind=name, options={"scale": 2})


def test_a_plug_in_that_yields_nonsense_is_skipped(tmp_path, monkeypatch):
    """What is no array of numbers is a bad reading like any other."""
    (tmp_path / "odd.py").write_text(
        "async def odd(world, config, skip):\n    yield object()\n    yield [1, 2, 3, 4]\n"
    )
    info = tmp_path / "odd-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[msrt.sources]\nodd = odd:odd\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    single = slots_with(mlp(sizes=(1, 3)), inputs=(TensorSpec("x", "FP32", (-1, 1)),))

    async def scenario(bench):
        await bench.ended()
        assert bench.watch.refused == 2

    watching(scenario, tmp_path, kind="odd", slots=single)


class Faulty:
    """A model that breaks on the first readings, then finds nothing that is a number, then works."""

    def __init__(self, broken, empty):
        self.broken, self.empty = broken, empty

    def run(self, _inputs, _names=()):
        self.broken -= 1
        if self.broken >= 0:
            raise ModelFailed("the graph divides by zero")
        self.empty -= 1
        return [np.full((1, 3), np.nan if self.empty >= 0 else 1.0, np.float32)]


def test_readings_count_as_requests_and_what_fails_on_them_as_failures(table):
    """Or a version that fails on sensors alone would be healthy for the rollout that watches it."""
    slots = slots_with()
    slots.serving("net").model = Faulty(4, 3)

    async def scenario(bench):
        await bench.ended()
        [report] = slots.reports()
        assert (report.requests, report.failures) == (30, 7)
        assert bench.watch.refused == 4
        assert len(bench.events()) == 26

    watching(scenario, table, slots=slots)


def test_a_reading_that_is_no_input_is_not_the_models_fault(tmp_path):
    """The sensor's own fault is seen in the source's state."""
    path = tmp_path / "wrong.npy"
    np.save(path, np.zeros((5, 7), np.float32))
    slots = slots_with()

    async def scenario(bench):
        await bench.ended()
        [report] = slots.reports()
        assert (report.requests, report.failures, bench.watch.refused) == (0, 0, 5)

    watching(scenario, path, slots=slots)


def summing_slots():
    """Slots that serve a model which answers the sum of all rows so far; wrapped as the keeper does."""
    data = renamed("state", "stateN", ("n", 4))
    spec, pair = TensorSpec("y", "FP32", (-1, 4)), StateTensor("state", "stateN", "FP32", (-1, 4))
    slots = slots_with(data, outputs=(spec,), batchable=False, state=(pair,))
    slot = slots.serving("net")
    slot.model = StatefulModel(slot.model, (pair,))
    return slots


def test_the_readings_of_a_source_are_one_sequence(tmp_path):
    """A stateful model sees what the readings before left; a version that takes its place begins anew."""
    path = tmp_path / "ones.npy"
    np.save(path, np.tile(np.array([1, 0, 0, 0], np.float32), (6, 1)))

    async def scenario(bench):
        await bench.ended()
        assert [event.data["score"] for event in bench.events()] == [1, 2, 3, 4, 5, 6]
        bench.slots._serving["net"] = summing_slots().serving("net")
        await bench.watch._take(np.array([1, 0, 0, 0], np.float32))
        assert bench.events()[-1].data["score"] == 1

    watching(scenario, path, slots=summing_slots())


def test_a_source_waits_for_a_model_that_is_not_in_memory(table):
    """It asks for it, reads on when it is loaded, and loses nothing."""
    slots = slots_with()
    slot = slots.serving("net")
    model = slot.model
    slots.unload(slot)

    async def scenario(bench):
        called = []
        bench.watch._wants_cold = lambda: called.append(1)
        await until(lambda: called)
        assert (bench.numbers(), slot.in_flight) == ([], 1)
        slots.ready(slot, "fp32", model, {"fp32": 5})
        await bench.ended()
        assert bench.numbers() == list(range(30))

    watching(scenario, table, slots=slots)
