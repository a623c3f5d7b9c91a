"""Which models are in memory at a time."""

from __future__ import annotations

import asyncio

import pytest

from msrt.errors import InvalidModel
from msrt.inference.budget import SESSION_BYTES, Budget, weight
from msrt.inference.keeper import Keeper
from msrt.inference.slots import Slots

from .models import manifest_of, mlp, placed, vouch
from .test_keeper import Bench, running

DATA = {name: mlp(seed=number) for number, name in enumerate("abcd", 1)}
ONE = weight(manifest_of({"fp32": DATA["a"]}), "fp32")


class Tight(Bench):
    """Room for so many models of one size."""

    def __init__(self, models=2, engine=None):
        super().__init__(engine)
        self.keeper = Keeper(
            self.keeper._world, self.slots, self.keeper._engine, fetch=self.fetch, vouch=vouch,
            changed=self.changed, budget=Budget(int(models * ONE)),
        )  # fmt: skip
        self.generation = 0

    def assign(self, *names, version=1):
        self.generation += 1
        placements = [self.place({"fp32": DATA[name]}, model=name, version=version) for name in names]
        self.keeper.assign(self.generation, placements)

    def warm(self):
        return "".join(state.model for state in self.slots.reports() if state.state == "ready" and not state.cold)

    async def all_ready(self):
        await self.until_so(lambda: all(state.state == "ready" for state in self.slots.reports()))

    async def use(self, name, version=0):
        """One request, which waits for its model."""
        slot = self.slots.borrow(name, version)
        self.keeper.wanted()
        await self.until_so(lambda: not slot.cold)
        slot.requests += 1
        self.slots.give_back(slot)
        return slot


def tight(scenario, models=2):
    async def run(_bench):
        bench = Tight(models)
        task = asyncio.create_task(bench.keeper.run())
        try:
            await scenario(bench)
            assert Budget(0).used(bench.slots) <= models * ONE
        finally:
            task.cancel()
            await asyncio.wait([task])

    running(run)


def test_a_model_weighs_more_than_its_file():
    """Half more, and something for the session; pre and post count."""
    manifest = manifest_of({"fp32": b"x" * 1000})
    assert weight(manifest, "fp32") == 1500 + SESSION_BYTES


def test_more_models_than_fit_are_all_ready_and_the_last_ones_are_warm():
    """Each was loaded once, so each is known to work; the least recently used gave its memory away."""

    async def scenario(bench):
        bench.assign("a", "b", "c", "d")
        await bench.all_ready()
        assert len(bench.warm()) == 2

    tight(scenario)


def test_a_cold_model_is_loaded_when_it_is_asked_for():
    """In the place of the least recently used."""

    async def scenario(bench):
        bench.assign("a", "b", "c")
        await bench.all_ready()
        await bench.use("a")
        await bench.use("b")
        assert bench.warm() == "ab"
        await bench.use("c")
        assert bench.warm() == "bc"
        assert bench.slots.serving("c").model is not None

    tight(scenario)


def test_one_in_use_never_goes():
    """Neither one with a request nor one with sequences; who wants their place waits until they are done."""

    async def scenario(bench):
        bench.assign("a", "b", "c")
        await bench.all_ready()
        a, b = await bench.use("a"), await bench.use("b")
        bench.slots.borrow("a")
        b.sequences = 1
        waiting = asyncio.create_task(bench.use("c"))
        await asyncio.sleep(0.2)
        assert bench.warm() == "ab"
        bench.time += 1
        b.sequences = 0
        await waiting
        assert bench.warm() == "ac"
        bench.slots.give_back(a)

    tight(scenario)


def test_a_model_that_never_fits_is_refused_with_its_size():
    """It fails, and says what would help; the others are as they were."""

    async def scenario(bench):
        bench.assign("a")
        await bench.all_ready()
        DATA["huge"] = mlp(sizes=(4, 20_000, 3))
        bench.assign("a", "huge")
        await bench.until_so(lambda: bench.slots.reports()[-1].state == "failed")
        assert "--model-memory" in bench.slots.reports()[-1].error
        assert bench.warm() == "a"

    tight(scenario)


def test_an_update_pushes_others_out_before_its_own_predecessor():
    """The version that serves stays in memory while the new one loads beside it."""

    async def scenario(bench):
        bench.assign("a", "b")
        await bench.all_ready()
        await bench.use("b")
        old = bench.slots.serving("a")
        DATA["a"] = mlp(seed=9)
        placements = [bench.place({"fp32": DATA[name]}, model=name, version=v) for name, v in (("a", 2), ("b", 1))]
        held = asyncio.Event()
        bench.hold = held
        bench.keeper.assign(9, placements)
        await bench.until_so(lambda: bench.slots.serving("b").cold)
        assert old.model is not None
        held.set()
        await bench.until_so(lambda: bench.slots.serving("a").placement.version == 2)

    tight(scenario)


def test_even_an_update_with_room_for_one_loses_no_request():
    """The old version goes as the last resort; who still asks for it waits, and gets it."""

    async def scenario(bench):
        bench.assign("a")
        await bench.all_ready()
        bench.hold = asyncio.Event()
        bench.assign("a", version=2)
        await bench.until_so(lambda: bench.slots.serving("a").cold)
        waiting = asyncio.create_task(bench.use("a", 1))
        await asyncio.sleep(0)
        bench.hold.set()
        slot = await waiting
        assert slot.placement.version == 1
        await bench.until_so(lambda: bench.slots.serving("a").placement.version == 2 and bench.warm() == "a")

    tight(scenario, models=1)


def test_free_memory_is_filled_with_the_most_popular():
    """When a model is withdrawn, the cold one that was asked for most comes back by itself; nothing is pushed out."""

    async def scenario(bench):
        bench.assign("a", "b", "c", "d")
        await bench.all_ready()
        for name, times in (("c", 9), ("d", 1), ("a", 2), ("b", 2)):
            for _ in range(times):
                await bench.use(name)
        bench.slots.count()
        assert bench.warm() == "ab"
        bench.assign("a", "c", "d")
        await bench.until_so(lambda: bench.warm() == "ac")
        await asyncio.sleep(0.05)
        assert bench.warm() == "ac"

    tight(scenario)


def test_a_cold_model_that_cannot_be_loaded_again_is_no_longer_ready():
    """Its file is gone and the parent is away: who waited is told, and it is tried again later."""

    async def scenario(bench):
        bench.assign("a", "b", "c")
        await bench.all_ready()
        await bench.use("b")
        await bench.use("c")
        bench.away = True
        slot = bench.slots.borrow("a")
        bench.keeper.wanted()
        await bench.until_so(lambda: not slot.cold)
        assert slot.model is None
        assert [state.state for state in bench.slots.reports()] == ["fetching", "ready", "ready"]
        bench.slots.give_back(slot)

    tight(scenario)


def test_what_does_not_fit_says_so_at_once():
    """The decision itself, without a keeper."""
    slots = Slots()
    slots.assign(1, [placed(manifest_of({"fp32": DATA["a"]}))])
    (slot,) = slots.held()
    assert Budget(ONE).room(slots, slot, ONE) == []
    assert Budget(0).room(slots, slot, 1 << 50) == []
    with pytest.raises(InvalidModel, match="MiB"):
        Budget(ONE).room(slots, slot, ONE + 1)
