"""Runs a device's own readings through the model placed on it, and posts what it found as durable events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import structlog

from msrt import errors
from msrt.hop.durable import DurableSender
from msrt.inference.answer import run_slot
from msrt.inference.pipeline import Pipeline
from msrt.inference.slots import Slot, Slots
from msrt.inference.stateful import State, StatefulModel
from msrt.inference.tensors import NUMPY_NAMES, has_nan
from msrt.protocol import wire
from msrt.protocol.messages import Event
from msrt.settings import SourceConfig
from msrt.world.world import Store, World
from msrt_device.sources.drift import Meter
from msrt_device.sources.source import Reading, open_source

__all__ = ["Watch"]

log = structlog.get_logger()
MODEL_WAIT_S: Final = 0.5
COLD_S: Final = 0.02
RETRY_S: Final = 2.0
VALUES: Final = 16
"""Numbers of the first output that an event carries at most."""


class Watch:
    """One source of one device. `state` says how it fares: waiting, reading, ended, or what is wrong."""

    def __init__(
        self,
        world: World,
        store: Store,
        config: SourceConfig,
        slots: Slots,
        events: DurableSender,
        who: tuple[str, str, str],
        cold: Callable[[], None] = lambda: None,
    ) -> None:
        """`cold` is called when the model must be loaded again."""
        self._world, self._store, self._config, self._slots, self._events = world, store, config, slots, events
        self._node, self._name, self._region = who
        self._wants_cold = cold
        self._key = f"source/{config.name}"
        self._read = int.from_bytes(dict(store.scan(self._key)).get(self._key, b""), "big")
        self._last_label: object = None
        self._kept: tuple[Slot, State] | None = None
        """The readings of a source are one sequence: what a stateful model left, on the version that left it."""
        self.meter = Meter(config.drift, config.drift_readings)
        self.state = "waiting"
        self.readings = self.refused = self.failures = 0

    async def run(self) -> None:
        """Until the source ends. A source that fails is opened again."""
        while True:
            try:
                self._kept = None  # what was read before is not what comes next
                async for reading in open_source(self._world, self._config, self._read):
                    await self._take(reading)
                self.state = "ended"
                return
            except errors.InvalidConfig as error:
                self.state = error.text
                log.warning("source.refused", source=self._config.name, error=errors.words_of(error))
                return
            except Exception as error:  # noqa: BLE001 - a plug-in's bug is its own: the device works on
                self.failures += 1
                self.state = str(error) if isinstance(error, errors.MsrtError) else f"{type(error).__name__}: {error}"
                log.warning("source.failed", source=self._config.name, error=self.state, again_in_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _take(self, reading: Reading) -> None:
        """One reading becomes one event, or none. Waits for the model: nothing is lost meanwhile."""
        while True:
            try:
                slot = self._slots.borrow(self._config.model)
                if slot.cold:
                    await self._loaded(slot)
                break
            except (errors.NotFound, errors.Unavailable):
                self.state = f"waiting for {self._config.model}"
                await asyncio.sleep(MODEL_WAIT_S)
        self.state = "reading"
        self.readings += 1
        try:
            before = self._kept[1] if self._kept is not None and self._kept[0] is slot else None
            data, after, drifted = await self._world.offload(self._run, slot, reading, before)
            self._kept = None if after is None else (slot, after)
            version = slot.placement.version
        except (errors.InvalidTensor, errors.ModelFailed) as error:
            self.state = error.text
            self.refused += 1
            self._read += 1
            self._store.put(self._key, self._read.to_bytes(8, "big"))
            log.warning("source.bad_reading", source=self._config.name, error=error.text)
            return
        finally:
            self._slots.give_back(slot)
        if self._worth(data):
            await self._post(data, version)
        if drifted:
            log.warning("source.drift", source=self._config.name, model=self._config.model, **drifted)
            await self._post(drifted, version)
        self._read += 1
        self._store.put(self._key, self._read.to_bytes(8, "big"))

    def _run(
        self, slot: Slot, reading: Reading, before: State | None
    ) -> tuple[dict[str, Any], State | None, dict[str, Any]]:
        """What the model found, its state, and what is to be said of drift. Blocking. Raises what `_infer` does."""
        data, after = _infer(slot, reading, before)
        assert slot.manifest is not None
        return data, after, self.meter.add(slot.manifest, reading)

    async def _loaded(self, slot: Slot) -> None:
        """Wait for a model that gave its memory to others. Raises Unavailable, the slot given back, where it fails."""
        try:
            while slot.cold:
                self.state = f"waiting for {self._config.model}"
                self._wants_cold()
                await asyncio.sleep(COLD_S)
        except asyncio.CancelledError:
            self._slots.give_back(slot)
            raise
        if slot.model is None:
            self._slots.give_back(slot)
            raise errors.Unavailable(slot.error)

    def _worth(self, data: dict[str, Any]) -> bool:
        least = self._config.min_score
        if least is not None and data.get("score", least) < least:
            return False
        changed = data.get("label") != self._last_label
        self._last_label = data.get("label")
        return changed or not self._config.on_change

    async def _post(self, data: dict[str, Any], version: int) -> None:
        wall, read = self._world.wall(), self._read

        def encode(seq: int) -> bytes:
            event = Event(
                node=self._node, seq=seq, name=self._name, source=self._config.name, model=self._config.model,
                version=version, wall=wall, data={**data, "reading": read}, region=self._region,
            )  # fmt: skip
            self._store.put(self._key, (read + 1).to_bytes(8, "big"))
            return wire.pack(event)

        try:
            await self._events.put(encode)
        except errors.DiskFull as error:
            self.state = error.text
            log.warning("source.disk_full", source=self._config.name)
            await asyncio.sleep(RETRY_S)
            await self._flush()

    async def _flush(self) -> None:
        """The event is queued in memory: wait until the disk takes it."""
        while True:
            try:
                await self._events.flush()
            except errors.DiskFull:
                await asyncio.sleep(RETRY_S)
            else:
                return


def _infer(slot: Slot, reading: Reading, before: State | None) -> tuple[dict[str, Any], State | None]:
    """Run one reading; what the event says of it, and the state after it where the model keeps one. Blocking.

    Raises InvalidTensor when it cannot be the input.
    """
    signature, manifest = slot.signature, slot.manifest
    assert signature is not None
    assert manifest is not None
    wanted = manifest.inputs[0]
    shape = tuple(1 if n == -1 else n for n in wanted.shape)
    try:
        value = np.ascontiguousarray(np.asarray(reading).reshape(shape), dtype=NUMPY_NAMES[wanted.dtype])
    except (ValueError, TypeError, KeyError) as error:
        raise errors.InvalidTensor(
            f"a reading of shape {np.shape(reading)} is no input {wanted.name}: {error}"
        ) from None
    slot.requests += 1  # as a caller's: a version that fails on sensors alone is rolled back as well
    after: State | None = None
    try:
        if slot.keeps_state and isinstance(slot.model, StatefulModel | Pipeline):
            found, after = slot.model.step({wanted.name: value}, signature.output_names, before)
            first = found[0]
        else:
            first = run_slot(slot, {wanted.name: value}, signature.output_names, 1)[0]
    except errors.ModelFailed:
        slot.failures += 1
        raise
    if has_nan(first):
        slot.failures += 1
    flat = np.asarray(first, dtype=np.float64).reshape(-1)
    if flat.size == 1:
        return {"value": float(flat[0])}, after
    best = int(flat.argmax())
    label: object = manifest.labels[best] if best < len(manifest.labels) else best
    values = [float(v) for v in flat[:VALUES]]
    return {"label": label, "index": best, "score": float(flat[best]), "values": values}, after
