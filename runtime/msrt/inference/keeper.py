"""The shell around the slots: fetches, checks, loads, warms and measures, one version at a time, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from msrt.errors import BadSignature, InvalidModel, InvalidTensor, MalformedFrame, ModelFailed, MsrtError
from msrt.inference.bundle import MEASURE, Manifest, check_manifest
from msrt.inference.engine import LoadedModel, measure, sample_inputs
from msrt.inference.slots import Slot, Slots
from msrt.protocol.messages import Placement
from msrt.world.world import World

__all__ = ["Keeper", "Loader", "load_variant"]

log = structlog.get_logger()

_RETRY_FIRST_S: Final = 1.0
_RETRY_LAST_S: Final = 30.0
_LASTING: Final = (InvalidModel, InvalidTensor, ModelFailed, BadSignature, MalformedFrame)
"""Another try helps against a peer that is away or a disk that lost bytes, never against these."""
_CLOSE: Final = 1.05
"""Within this ratio two variants count as equally fast, and the smaller one is kept."""


class Loader(Protocol):
    """An engine."""

    def load(self, model: bytes) -> LoadedModel: ...


class Keeper:
    """Keeps the slots what the last assignment says. `run` until cancelled; `assign` at any time."""

    def __init__(
        self,
        world: World,
        slots: Slots,
        engine: Loader,
        *,
        fetch: Callable[[str], Awaitable[bytes]],
        verify: Callable[[bytes, bytes], None],
        changed: Callable[[], None],
    ) -> None:
        """`fetch` brings a whole verified artifact by digest and has deadlines of its own; `verify(data, signature)`
        raises BadSignature; `changed` is called after every change that a parent should hear of."""
        self.slots: Final = slots
        self._world = world
        self._engine = engine
        self._fetch = fetch
        self._verify = verify
        self._changed = changed
        self._wake = asyncio.Event()
        self._job: tuple[Slot, asyncio.Task[None]] | None = None

    def assign(self, generation: int, placements: Sequence[Placement]) -> None:
        """Take a new assignment; a load that it no longer asks for is given up."""
        for slot in self.slots.assign(generation, placements):
            log.info("model.unloaded", model=slot.placement.model, version=slot.placement.version)
        if self._job and not self._job[0].wanted:
            self._job[1].cancel()
        self._wake.set()
        self._changed()

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                slot = self.slots.next_to_load(self._world.now())
                if slot is None:
                    await self._sleep()
                    continue
                task = asyncio.create_task(self._load(slot))
                self._job = slot, task
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()
                self._changed()
        finally:
            if self._job:
                self._job[1].cancel()

    async def _sleep(self) -> None:
        retry = self.slots.next_retry()
        wait = None if retry is None else max(0.0, retry - self._world.now())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    async def _load(self, slot: Slot) -> None:
        placement = slot.placement
        try:
            manifest = check_manifest(placement.manifest, placement.signature, self._verify)
            _check_fits(manifest, placement)
            variant, model, latency = await self._best(slot, manifest)
        except MsrtError as error:
            self._failed(slot, error)
            return
        for gone in self.slots.ready(slot, variant, model, latency):
            log.info("model.unloaded", model=gone.placement.model, version=gone.placement.version)
        log.info("model.ready", model=placement.model, version=placement.version, variant=variant, latency_us=latency)

    def _failed(self, slot: Slot, error: MsrtError) -> None:
        wait = min(_RETRY_LAST_S, _RETRY_FIRST_S * 2**slot.tries)
        self.slots.failed(slot, error, None if isinstance(error, _LASTING) else self._world.now() + wait)
        log.warning("model.failed", model=slot.placement.model, version=slot.placement.version, error=str(error))

    async def _best(self, slot: Slot, manifest: Manifest) -> tuple[str, LoadedModel, dict[str, int]]:
        asked = manifest.require or slot.placement.variant
        names = sorted(manifest.variants) if asked == MEASURE else [asked]
        latency: dict[str, int] = {}
        best: tuple[str, LoadedModel] | None = None
        fault: MsrtError | None = None
        for name in names:
            data = await self._fetch(manifest.variants[name].digest)
            self.slots.loading(slot, manifest)
            self._changed()
            try:
                model, latency[name] = await self._world.offload(
                    load_variant, self._engine, data, manifest, self._world.now
                )
            except _LASTING as error:  # one variant that this machine cannot run leaves the other
                fault = error
                continue
            if best is None or _better(manifest, name, best[0], latency):
                best = name, model
        if best is None:
            raise fault or InvalidModel(f"{manifest.model}@{manifest.version} has no variant to load")
        return *best, latency


def load_variant(engine: Loader, data: bytes, manifest: Manifest, now: Callable[[], float]) -> tuple[LoadedModel, int]:
    """Load a file, hold it against its manifest, warm it, measure one row in microseconds. Blocking.

    Raises InvalidModel and ModelFailed.
    """
    model = engine.load(data)
    for ours, theirs in ((model.inputs, manifest.inputs), (model.outputs, manifest.outputs)):
        if [(spec.name, spec.dtype) for spec in ours] != [(spec.name, spec.dtype) for spec in theirs]:
            raise InvalidModel(f"the file of {manifest.model}@{manifest.version} has other tensors than its manifest")
    took = measure(model, sample_inputs(manifest.inputs, manifest.sample), now)
    if manifest.batchable:
        model.run(sample_inputs(manifest.inputs, manifest.sample, rows=4, batchable=True))
    return model, took


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
