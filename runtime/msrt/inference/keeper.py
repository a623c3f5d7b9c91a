"""The shell around the slots: fetches, checks, loads, warms and measures, one version at a time, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from msrt.buffers import Buffer
from msrt.errors import InvalidModel, MsrtError, OutOfMemory, words_of
from msrt.inference.budget import Budget
from msrt.inference.bundle import MEASURE, MICRO, Manifest, engine_variants, read_manifest
from msrt.inference.measuring import measure, sample_inputs
from msrt.inference.model import Loader, Model
from msrt.inference.pipeline import Graphs, assemble
from msrt.inference.retry import LASTING, pause_s
from msrt.inference.slots import Slot, Slots
from msrt.protocol.messages import Placement
from msrt.trust.tuf.claims import Claim, Vouch, manifest_claim
from msrt.world.world import World

__all__ = ["Keeper", "load_variant"]

log = structlog.get_logger()

_IN_USE_S: Final = 0.02
"""Where all that could make room is in use, it is looked again after this time."""
_REMEMBERED: Final = 256
"""Versions of which it is remembered how fast their variants are here."""
_DRAIN_S: Final = 1.0
"""How long a version that was replaced answers on. Its parent hears of the switch in some milliseconds, but for as long
it asks who answered before: refused, each such request would be paid for by its caller."""
_CLOSE: Final = 1.05
"""Within this ratio two variants count as equally fast, and the smaller one is kept."""


class Keeper:
    """Keeps the slots what the last assignment says. `run` until cancelled; `assign` at any time."""

    def __init__(
        self,
        world: World,
        slots: Slots,
        engine: Loader,
        *,
        fetch: Callable[[str], Awaitable[Buffer]],
        vouch: Vouch,
        changed: Callable[[], None],
        budget: Budget | None = None,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        """`fetch` brings a whole verified artifact by digest and has deadlines of its own; `vouch` says whether a
        manifest may be used; `changed` is called after every change that a parent should hear of; `tidy`, blocking,
        once models have come or gone."""
        self.slots: Final = slots
        self._world = world
        self._engine = engine
        self._fetch = fetch
        self._vouch = vouch
        self._changed = changed
        self._budget = budget or Budget(0)
        self._tidy = tidy
        self._untidy = True
        self._wake = asyncio.Event()
        self._measured: dict[bytes, tuple[str, dict[str, int]]] = {}
        """By manifest: the better variant and what each took. A version that comes back is not measured again."""
        self._job: tuple[Slot, asyncio.Task[None]] | None = None
        self._drains: dict[Slot, asyncio.TimerHandle] = {}

    def assign(self, generation: int, placements: Sequence[Placement]) -> None:
        """Take a new assignment; a load that it no longer asks for is given up."""
        self._left(self.slots.assign(generation, placements))
        if self._job and not self._job[0].wanted and not self._job[0].in_flight:
            self._job[1].cancel()
        self._wake.set()
        self._changed()

    def wanted(self) -> None:
        """Somebody waits for a cold slot."""
        self._wake.set()

    def settle(self) -> None:
        """Sequences ended: what was held for them may go."""
        self._let_go(self.slots.settle())

    def _let_go(self, gone: list[Slot]) -> None:
        self._left(gone)
        if gone:
            self._wake.set()
            self._changed()

    def _left(self, gone: list[Slot]) -> None:
        """These left; what was replaced follows in a moment."""
        self._untidy = self._untidy or bool(gone)
        for slot in gone:
            log.info("model.unloaded", model=slot.placement.model, version=slot.placement.version)
        draining = self.slots.draining()
        for slot in self._drains.keys() - draining:
            self._drains.pop(slot).cancel()
        for slot in draining:
            if slot not in self._drains:
                self._drains[slot] = asyncio.get_running_loop().call_later(_DRAIN_S, self._drained, slot)

    def _drained(self, slot: Slot) -> None:
        del self._drains[slot]
        self._let_go(self.slots.drained(slot))

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                slot = self.slots.next_to_load(self._world.now()) or self._budget.prefetch(self.slots)
                if slot is None:
                    await self._tidied()
                    await self._sleep()
                    continue
                self._untidy = True
                task = asyncio.create_task(self._again(slot) if slot.cold else self._load(slot))
                self._job = slot, task
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()
                self._changed()
        finally:
            if self._job:
                self._job[1].cancel()
            for timer in self._drains.values():
                timer.cancel()

    async def _tidied(self) -> None:
        if self._untidy and self._tidy is not None:
            self._untidy = False
            await self._world.offload(self._tidy)

    async def _sleep(self) -> None:
        retry = self.slots.next_retry()
        wait = None if retry is None else max(0.0, retry - self._world.now())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    async def _load(self, slot: Slot) -> None:
        placement = slot.placement
        try:
            await self._vouch(_claim(placement))
            manifest = read_manifest(placement.manifest)
            _check_fits(manifest, placement)
            names, size = self._variants(slot, manifest)
            if not self._make_room(slot, size):
                slot.retry_at = self._world.now() + _IN_USE_S
                return
            variant, model, latency = await self._best(slot, manifest, names)
        except (MsrtError, MemoryError) as error:
            self._failed(slot, error)
            return
        self._left(self.slots.ready(slot, variant, model, latency))
        log.info("model.ready", model=placement.model, version=placement.version, variant=variant, latency_us=latency)

    async def _again(self, slot: Slot) -> None:
        """What was ready before and gave its memory away."""
        manifest, placement = slot.manifest, slot.placement
        assert manifest is not None
        try:
            if not self._make_room(slot, slot.size):
                slot.retry_at = self._world.now() + _IN_USE_S
                return
            graphs = await self._graphs(manifest, slot.variant, await self._stages(manifest))
            once = functools.partial(load_variant, calls=1)
            model, _ = await self._world.offload(once, self._engine, graphs, manifest, self._world.now)
        except (MsrtError, MemoryError) as error:
            self._failed(slot, error)
            return
        self._left(self.slots.ready(slot, slot.variant, model, slot.latency_us))
        log.info("model.reloaded", model=placement.model, version=placement.version, variant=slot.variant)

    def _make_room(self, slot: Slot, size: int) -> bool:
        """Unload what must go for it. False: all of that is in use just now. Raises InvalidModel."""
        going = self._budget.room(self.slots, slot, size)
        for cold in going or ():
            self.slots.unload(cold)
            log.info("model.evicted", model=cold.placement.model, version=cold.placement.version, bytes=cold.size)
        if going:
            self._changed()
        return going is not None

    def _failed(self, slot: Slot, error: MsrtError | MemoryError) -> None:
        if isinstance(error, MemoryError):  # while its file was read
            error = OutOfMemory(f"no memory is left for {slot.placement.model}@{slot.placement.version}")
        self._measured.pop(slot.placement.manifest, None)
        wait = pause_s(error, slot.tries, slot.shortages, self._world.random.random)
        self.slots.failed(slot, error, None if wait is None else self._world.now() + wait)
        log.warning(
            "model.failed", model=slot.placement.model, version=slot.placement.version, error=words_of(error),
            tries=slot.tries, retry_s=wait and round(wait, 1),
        )  # fmt: skip

    def _variants(self, slot: Slot, manifest: Manifest) -> tuple[list[str], int]:
        """What to load, and the bytes that this takes: two are in memory at a time where one of them is chosen."""
        asked = slot.placement.variant
        if asked != MICRO:
            asked = manifest.require or asked
        if asked == MEASURE and slot.placement.manifest in self._measured:
            asked = self._measured[slot.placement.manifest][0]
        if asked != MEASURE:
            return [asked], self._budget.weight(manifest, asked)
        weights = {name: self._budget.weight(manifest, name) for name in engine_variants(manifest)}
        size = sum(sorted(weights.values())[-2:])
        if self._budget.limit and size > self._budget.limit:
            smallest = min(weights, key=weights.__getitem__)
            return [smallest], weights[smallest]
        return list(weights), size

    async def _best(self, slot: Slot, manifest: Manifest, names: list[str]) -> tuple[str, Model, dict[str, int]]:
        latency: dict[str, int] = {}
        best: tuple[str, Model] | None = None
        fault: MsrtError | None = None
        stages = await self._stages(manifest)
        for name in names:
            graphs = await self._graphs(manifest, name, stages)
            self.slots.loading(slot, manifest)
            self._changed()
            try:
                model, latency[name] = await self._world.offload(
                    load_variant, self._engine, graphs, manifest, self._world.now
                )
            except LASTING as error:  # one variant that this machine cannot run leaves the other
                if not isinstance(fault, OutOfMemory):  # which may be over in a moment, whatever the other's fault is
                    fault = error
                continue
            if best is None or _better(manifest, name, best[0], latency):
                best = name, model
        if best is None:
            raise fault or InvalidModel(f"{manifest.model}@{manifest.version} has no variant to load")
        slot.size = self._budget.weight(manifest, best[0])
        return *best, self._remembered(slot.placement.manifest, best[0], latency)

    def _remembered(self, manifest: bytes, variant: str, latency: dict[str, int]) -> dict[str, int]:
        """What is known of all variants; a comparison is kept for when this version comes again."""
        if len(latency) > 1:
            if len(self._measured) >= _REMEMBERED:
                del self._measured[next(iter(self._measured))]
            self._measured[manifest] = variant, latency
            return latency
        known = self._measured.get(manifest)
        return {**known[1], **latency} if known is not None else latency

    async def _stages(self, manifest: Manifest) -> tuple[Buffer, Buffer]:
        """What runs before and after every variant."""
        pre = await self._fetch(manifest.pre.digest) if manifest.pre else b""
        return pre, await self._fetch(manifest.post.digest) if manifest.post else b""

    async def _graphs(self, manifest: Manifest, variant: str, stages: tuple[Buffer, Buffer]) -> Graphs:
        return Graphs(await self._fetch(manifest.variants[variant].digest), *stages)


def load_variant(
    engine: Loader, graphs: Graphs, manifest: Manifest, now: Callable[[], float], *, calls: int = 30
) -> tuple[Model, int]:
    """Load a variant, hold it against its manifest, warm it, measure one row in microseconds. Blocking.

    Raises InvalidModel, ModelFailed and OutOfMemory.
    """
    try:
        return _loaded(engine, graphs, manifest, now, calls)
    except MemoryError as error:  # ours or numpy's: the engine turns its own
        raise OutOfMemory(f"no memory is left for {manifest.model}@{manifest.version}") from error


def _loaded(
    engine: Loader, graphs: Graphs, manifest: Manifest, now: Callable[[], float], calls: int
) -> tuple[Model, int]:
    model = assemble(engine, graphs, manifest.state)
    for ours, theirs in ((model.inputs, manifest.inputs), (model.outputs, manifest.outputs)):
        if [(spec.name, spec.dtype) for spec in ours] != [(spec.name, spec.dtype) for spec in theirs]:
            raise InvalidModel(f"the file of {manifest.model}@{manifest.version} has other tensors than its manifest")
    took = measure(model, sample_inputs(manifest.inputs, manifest.sample), now, calls=calls)
    if manifest.batchable:
        model.run(sample_inputs(manifest.inputs, manifest.sample, rows=4, batchable=True))
    return model, took


def _claim(placement: Placement) -> Claim:
    return manifest_claim(placement.model, placement.version, placement.manifest, placement.signature)


def _better(manifest: Manifest, name: str, than: str, latency: dict[str, int]) -> bool:
    ratio = latency[name] / latency[than]
    if 1 / _CLOSE <= ratio <= _CLOSE:
        return manifest.variants[name].size < manifest.variants[than].size
    return ratio < 1


def _check_fits(manifest: Manifest, placement: Placement) -> None:
    if (manifest.model, manifest.version) != (placement.model, placement.version):
        raise InvalidModel(
            f"the manifest is of {manifest.model}@{manifest.version}, not {placement.model}@{placement.version}"
        )
    if placement.variant != MEASURE and placement.variant not in manifest.variants:
        raise InvalidModel(f"{manifest.model}@{manifest.version} has no variant {placement.variant!r}")
