import asyncio
import contextlib
import hashlib
import random
from types import SimpleNamespace

import numpy as np
import pytest

from msrt.errors import InvalidModel, NotFound, Unavailable
from msrt.inference.bundle import Stage
from msrt.inference.engine import Engine
from msrt.inference.keeper import Keeper, load_variant
from msrt.inference.pipeline import Graphs
from msrt.inference.retry import SHORTAGES
from msrt.inference.slots import Slots
from msrt.protocol.messages import TensorSpec

from .models import best, manifest_of, mlp, placed, scale, vouch

GOOD, BETTER = mlp(seed=1), mlp(seed=2)


class Bench:
    """A keeper in a loop whose clock only moves when a test says so; artifacts come from a dictionary."""

    def __init__(self, engine=None):
        self.time = 0.0
        self.files = {}
        self.fetched = []
        self.away = False
        self.changes = 0
        self.hold = None
        self.moved = asyncio.Event()
        world = SimpleNamespace(now=self.now, offload=self.offload, random=random.Random(0))
        self.slots = Slots()
        self.tidied = 0
        self.keeper = Keeper(
            world, self.slots, engine or Engine(), fetch=self.fetch, vouch=vouch, changed=self.changed, tidy=self.tidy
        )

    def now(self):
        self.time += 1e-6
        return self.time

    async def offload(self, work, *args):
        return work(*args)

    async def fetch(self, digest):
        self.fetched.append(digest)
        self.moved.set()
        if self.hold:
            await self.hold.wait()
        if self.away:
            raise Unavailable("the edge is away")
        if digest not in self.files:
            raise NotFound("no artifact of that digest")
        return self.files[digest]

    def changed(self):
        self.changes += 1
        self.moved.set()

    def tidy(self):
        self.tidied += 1
        self.moved.set()

    def place(self, files, variant="fp32", **fields):
        manifest = manifest_of(files, **fields)
        for name, data in files.items():
            self.files[manifest.variants[name].digest] = data
        return placed(manifest, variant)

    def states(self):
        return [(state.version, state.state) for state in self.slots.reports()]

    async def until(self, *wanted):
        await self.until_so(lambda: self.states() == list(wanted))

    async def until_so(self, check):
        async with asyncio.timeout(5):
            while not check():
                self.moved.clear()
                await self.moved.wait()


def running(scenario, **options):
    async def main():
        bench = Bench(**options)
        task = asyncio.create_task(bench.keeper.run())
        try:
            await scenario(bench)
            assert not task.done() or task.result()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_assigned_model_is_fetched_loaded_warmed_and_measured():
    """And its parent hears of every step."""

    async def scenario(bench):
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until((1, "ready"))
        slot = bench.slots.serving("net")
        assert slot.latency_us["fp32"] >= 1
        assert slot.model.run({"x": np.zeros((1, 4), np.float32)})[0].shape == (1, 3)
        assert bench.changes >= 2

    running(scenario)


def test_memory_is_given_back_once_models_have_come_or_gone():
    """Not between two of them, and not while nothing changes."""

    async def scenario(bench):
        await bench.until_so(lambda: bench.tidied == 1)  # what the start left
        one, two = bench.place({"fp32": GOOD}), bench.place({"fp32": mlp(seed=2)}, model="other")
        bench.keeper.assign(1, [one, two])
        await bench.until_so(lambda: bench.tidied == 2)
        assert bench.states() == [(1, "ready"), (1, "ready")]
        bench.keeper.assign(2, [one])
        await bench.until_so(lambda: bench.tidied == 3)
        bench.keeper.assign(3, [one])
        await asyncio.sleep(0)
        assert bench.tidied == 3

    running(scenario)


def test_measure_tries_both_and_keeps_the_faster():
    """Both latencies are reported; equally fast ones leave the smaller file."""

    async def scenario(bench):
        small = mlp(sizes=(4, 3))
        bench.keeper.assign(1, [bench.place({"fp32": GOOD, "int8": small}, "measure")])
        await bench.until((1, "ready"))
        report = bench.slots.reports()[0]
        assert set(report.latency_us) == {"fp32", "int8"}
        assert report.variant == "int8"

    running(scenario)


def test_a_version_that_comes_back_is_not_measured_again():
    """Only the better variant is fetched and loaded; what the other took is still reported."""

    async def scenario(bench):
        both = bench.place({"fp32": GOOD, "int8": BETTER}, "measure")
        other = bench.place({"fp32": GOOD}, version=2)
        bench.keeper.assign(1, [both])
        await bench.until((1, "ready"))
        first = bench.slots.reports()[0]
        bench.keeper.assign(2, [other])
        await bench.until((2, "ready"))
        (old,) = bench.slots.draining()
        bench.slots.drained(old)
        bench.fetched.clear()
        bench.keeper.assign(3, [both])
        await bench.until((1, "ready"))
        again = bench.slots.reports()[0]
        assert len(bench.fetched) == 1
        assert again.variant == first.variant
        assert again.latency_us.keys() == {"fp32", "int8"}

    running(scenario)


def test_measure_survives_a_variant_that_this_machine_cannot_run():
    """int8 does not load here: fp32 serves."""

    async def scenario(bench):
        bench.keeper.assign(1, [bench.place({"fp32": GOOD, "int8": b"unloadable"}, "measure")])
        await bench.until((1, "ready"))
        assert bench.slots.reports()[0].variant == "fp32"

    running(scenario)


def test_required_variant_is_the_only_one_loaded():
    """Nothing else is even fetched."""

    async def scenario(bench):
        placement = bench.place({"fp32": GOOD, "int8": BETTER}, "measure", require="int8")
        bench.keeper.assign(1, [placement])
        await bench.until((1, "ready"))
        assert len(bench.fetched) == 1
        assert bench.slots.reports()[0].variant == "int8"

    running(scenario)


@pytest.mark.parametrize("fault", ["garbage", "other tensors", "forged", "wrong version", "no such variant"])
def test_bad_new_version_leaves_the_good_one_serving(fault):
    """Whatever is wrong with version 2, version 1 answers on and nobody tries 2 again."""

    async def scenario(bench):
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until((1, "ready"))
        files = {"garbage": b"?" * 100, "other tensors": mlp(sizes=(4, 2)).replace(b"y", b"q")}
        new = bench.place({"fp32": files.get(fault, BETTER)}, version=2)
        changes = {
            "forged": {"signature": b"x" * 32},
            "wrong version": {"version": 3},
            "no such variant": {"variant": "int8"},
        }
        fields = {name: getattr(new, name) for name in new.__struct_fields__}
        new = type(new)(**{**fields, **changes.get(fault, {})})
        bench.keeper.assign(2, [new])
        await bench.until((1, "ready"), (new.version, "failed"))
        assert bench.slots.serving("net").placement.version == 1
        assert bench.slots.reports()[1].error
        assert bench.slots.next_retry() is None

    running(scenario)


def test_parent_that_is_away_is_asked_again():
    """A fetch that fails is tried again after a second, and the model comes when the parent is back."""

    async def scenario(bench):
        bench.away = True
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until_so(lambda: bench.slots.reports()[0].error)
        assert bench.states() == [(1, "fetching")]
        assert 0.4 < bench.slots.next_retry() - bench.time <= 1.0
        bench.away = False
        bench.time += 1.0
        bench.keeper.assign(2, [bench.place({"fp32": GOOD})])
        await bench.until((1, "ready"))

    running(scenario)


class Short(Engine):
    """An engine on a machine whose memory is taken by others meanwhile."""

    def __init__(self):
        super().__init__()
        self.short, self.loads = True, 0

    def load(self, model):
        self.loads += 1
        if self.short:
            raise MemoryError
        return super().load(model)


async def try_again(bench):
    """Let the pause pass, and the next try too."""
    tries = bench.slots.held()[0].tries
    bench.time = bench.slots.next_retry()
    bench.keeper.wanted()
    await bench.until_so(lambda: bench.slots.held()[0].tries != tries)


def test_version_that_lacked_memory_for_a_moment_is_tried_again():
    """Its error is told meanwhile, the one before it serves, and it takes over once there is room."""
    engine = Short()

    async def scenario(bench):
        engine.short = False
        first = bench.place({"fp32": GOOD})
        bench.keeper.assign(1, [first])
        await bench.until((1, "ready"))
        engine.short = True
        bench.keeper.assign(2, [bench.place({"fp32": BETTER}, version=2)])
        await bench.until_so(lambda: len(bench.states()) == 2 and bench.slots.reports()[1].error)
        assert bench.states() == [(1, "ready"), (2, "fetching")]
        assert "no memory is left for net@2" in bench.slots.reports()[1].error
        engine.short = False
        bench.time = bench.slots.next_retry()
        bench.keeper.wanted()
        await bench.until((2, "ready"))
        assert bench.slots.reports()[0].error == ""

    running(scenario, engine=engine)


def test_version_that_never_finds_memory_fails_in_the_end():
    """After twelve tries; what frees it again is another assignment, as for any bad version."""
    engine = Short()

    async def scenario(bench):
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until_so(lambda: bench.slots.held()[0].tries == 1)
        while bench.slots.next_retry() is not None:
            await try_again(bench)
        assert bench.states() == [(1, "failed")]
        assert engine.loads == SHORTAGES

    running(scenario, engine=engine)


def test_version_that_is_taken_away_is_not_tried_again():
    """Once it is no longer assigned nothing waits for memory."""
    engine = Short()

    async def scenario(bench):
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until_so(lambda: bench.slots.held()[0].tries == 1)
        bench.keeper.assign(2, [])
        assert bench.slots.next_retry() is None
        assert bench.states() == []

    running(scenario, engine=engine)


def test_load_that_nobody_wants_any_more_is_given_up():
    """A fetch that hangs does not hold up what is assigned next."""

    async def scenario(bench):
        bench.hold = asyncio.Event()
        bench.keeper.assign(1, [bench.place({"fp32": GOOD})])
        await bench.until_so(lambda: bench.fetched)
        bench.hold = None
        bench.keeper.assign(2, [bench.place({"fp32": BETTER}, version=2)])
        await bench.until((2, "ready"))

    running(scenario)


def test_file_is_held_against_its_manifest():
    """A file with other tensors than were signed is not loaded."""
    manifest = manifest_of({"fp32": GOOD})
    with pytest.raises(InvalidModel, match="other tensors"):
        load_variant(Engine(), Graphs(mlp().replace(b"x", b"q")), manifest, lambda: 0.0)


def test_graphs_around_it_are_fetched_once_and_run_with_every_variant():
    """Also when it comes back after it gave its memory away."""
    stages = {"pre": scale(), "post": best()}

    async def scenario(bench):
        fields = {name: Stage(hashlib.sha256(data).hexdigest(), len(data)) for name, data in stages.items()}
        for name, data in stages.items():
            bench.files[fields[name].digest] = data
        tensors = {
            "inputs": (TensorSpec("raw", "INT8", (-1, 4)),),
            "outputs": (TensorSpec("p", "FP32", (-1, 3)), TensorSpec("class", "INT64", (-1,))),
        }
        placement = bench.place({"fp32": GOOD, "int8": BETTER}, "measure", **tensors, **fields)
        bench.keeper.assign(1, [placement])
        await bench.until((1, "ready"))
        assert len(bench.fetched) == len(set(bench.fetched)) == 4
        slot = bench.slots.serving("net")
        assert slot.model.run({"raw": np.ones((2, 4), np.int8)}, ["class"])[0].shape == (2,)
        bench.slots.unload(slot)
        assert slot.cold
        bench.slots.borrow("net")
        bench.keeper.wanted()
        await bench.until_so(lambda: slot.model is not None)
        bench.slots.give_back(slot)
        assert slot.model.run({"raw": np.ones((2, 4), np.int8)}, ["class"])[0].shape == (2,)

    running(scenario)


def test_a_graph_that_does_not_fit_is_no_version():
    """It is refused on the device as well, whoever signed it."""
    data = scale(width=5)

    async def scenario(bench):
        stage = Stage(hashlib.sha256(data).hexdigest(), len(data))
        bench.files[stage.digest] = data
        bench.keeper.assign(1, [bench.place({"fp32": GOOD}, pre=stage)])
        await bench.until((1, "failed"))
        assert "pre-processing graph gives x FP32 [-1, 5]" in bench.slots.reports()[0].error

    running(scenario)
