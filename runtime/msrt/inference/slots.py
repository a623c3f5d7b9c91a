"""Which version of a model answers. Decided here, without I/O: the keeper loads, the slots say what and when.

A slot is one version in one variant. New ones load beside the running one; the switch is one assignment between two
requests, made only when the new one is ready, so a version that fails to load or to warm never replaces anything.
What is no longer assigned leaves when its last request is answered, except the last good version of a model whose
new one is not ready, and one that was replaced just now: it is not reported any more, but answers on until `drained`,
for a parent goes on asking it until it has heard.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from msrt.errors import MsrtError, NotFound, OutOfMemory, Unavailable, words_of
from msrt.inference.bundle import Manifest, signature_of
from msrt.inference.model import Runs
from msrt.inference.signature import Signature
from msrt.protocol.messages import ModelState, Placement

__all__ = ["Slot", "SlotState", "Slots"]

_FADING = 0.9
Key = tuple[str, int, str, bytes]
"""Model, version, variant, manifest: the same version in another tree is another model."""


class SlotState(enum.StrEnum):
    """As `ModelState.state` reports it."""

    FETCHING = "fetching"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(eq=False)
class Slot:
    """One version of a model in one variant, on its way in, serving, or on its way out."""

    placement: Placement
    wanted: bool = True
    state: SlotState = SlotState.FETCHING
    error: str = ""
    tries: int = 0
    """Failures in a row."""
    shortages: int = 0
    """Of these: memory was short."""
    retry_at: float = 0.0
    variant: str = ""
    manifest: Manifest | None = None
    signature: Signature | None = None
    model: Runs | None = None
    latency_us: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    keeps_state: bool = False
    """Its graph hands state from call to call (see sequences)."""
    sequences: int = 0
    """Kept of this version: it stays while they go on."""
    size: int = 0
    """Bytes of memory that it takes when loaded, as estimated (see budget)."""
    used: int = 0
    """When it was last borrowed, in borrowings of all slots."""
    popularity: float = 0.0
    """Requests lately, older ones counting less."""
    counted: int = 0
    """Requests that `popularity` knows of."""
    replaced: bool = False
    """Another version took over; who has not heard yet still asks this one."""
    cold: bool = False
    """It was ready, and gave its memory to others: whoever borrows it waits until it is loaded again."""

    @property
    def key(self) -> Key:
        return _key(self.placement)

    @property
    def in_use(self) -> bool:
        """Somebody's work would be lost or wait if it were unloaded."""
        return self.in_flight > 0 or self.sequences > 0

    def report(self) -> ModelState:
        return ModelState(
            model=self.placement.model,
            version=self.placement.version,
            variant=self.variant or self.placement.variant,
            state=self.state.value,
            error=self.error,
            batch=self.manifest.rides if self.manifest else False,
            latency_us=dict(self.latency_us),
            requests=self.requests,
            failures=self.failures,
            cold=self.cold,
        )


class Slots:
    """All slots of one device."""

    def __init__(self) -> None:
        self.generation = 0
        self._slots: dict[Key, Slot] = {}
        self._serving: dict[str, Slot] = {}
        self._borrowed = 0

    # --- what should be here ---------------------------------------------------------------------------------

    def assign(self, generation: int, placements: Sequence[Placement]) -> list[Slot]:
        """Take a new assignment, whole. Returns the slots that left at once."""
        self.generation = generation
        for slot in self._slots.values():
            slot.wanted = False
        for placement in placements:
            slot = self._slots.setdefault(_key(placement), Slot(placement))
            slot.wanted, slot.placement, slot.replaced = True, placement, False
        return self._settle()

    def next_to_load(self, now: float) -> Slot | None:
        """A cold slot that somebody waits for; else the first slot, in the order assigned, that waits to be fetched and
        may be tried now."""
        for slot in self._slots.values():
            if slot.cold and slot.in_flight and slot.retry_at <= now:
                return slot
        for slot in self._slots.values():
            if slot.wanted and slot.state is SlotState.FETCHING and slot.retry_at <= now:
                return slot
        return None

    def next_retry(self) -> float | None:
        """When `next_to_load` may have something again."""
        waits = (
            s.retry_at
            for s in self._slots.values()
            if (s.wanted and s.state is SlotState.FETCHING) or (s.cold and s.in_flight)
        )
        return min(waits, default=None)

    # --- what became of it -----------------------------------------------------------------------------------

    def loading(self, slot: Slot, manifest: Manifest) -> None:
        slot.state, slot.manifest, slot.signature = SlotState.LOADING, manifest, signature_of(manifest)
        slot.keeps_state = bool(manifest.state)

    def ready(self, slot: Slot, variant: str, model: Runs, latency_us: dict[str, int]) -> list[Slot]:
        """Loaded and warm: from here on it answers, if it is to serve. Returns the slots that left."""
        slot.state, slot.error, slot.retry_at, slot.cold = SlotState.READY, "", 0.0, False
        slot.tries = slot.shortages = 0
        slot.variant, slot.model, slot.latency_us = variant, model, latency_us
        return self._settle()

    def failed(self, slot: Slot, error: MsrtError, retry_at: float | None = None) -> None:
        """It could not be loaded. With `retry_at` it waits for another try, without it stays failed."""
        slot.error = words_of(error)
        slot.tries += 1
        slot.shortages += isinstance(error, OutOfMemory)
        slot.model, slot.cold = None, False
        slot.state = SlotState.FAILED if retry_at is None else SlotState.FETCHING
        slot.retry_at = retry_at or 0.0

    def unload(self, slot: Slot) -> None:
        """Free its memory; it stays ready, and is loaded again when it is asked for. One that was replaced leaves."""
        assert slot.state is SlotState.READY
        assert not slot.in_use
        if slot.replaced:
            self.drained(slot)
        else:
            slot.model, slot.cold = None, True

    def draining(self) -> list[Slot]:
        """Those that were replaced, and answer on for a moment."""
        return [slot for slot in self._slots.values() if slot.replaced]

    def drained(self, slot: Slot) -> list[Slot]:
        """Nobody should ask it any more. Returns the slots that left."""
        slot.replaced = False
        return self._sweep()

    def settle(self) -> list[Slot]:
        """Sequences ended: let go of what nobody needs. Returns the slots that left."""
        return self._sweep()

    def leaving(self, slot: Slot) -> bool:
        """Replaced by another version, and here only for who still uses it."""
        return not slot.wanted and self._serving.get(slot.placement.model) is not slot

    def count(self) -> None:
        """Called every few seconds: how popular is each?"""
        for slot in self._slots.values():
            slot.popularity = _FADING * slot.popularity + slot.requests - slot.counted
            slot.counted = slot.requests

    def _settle(self) -> list[Slot]:
        """Switch to what is ready, and let go of what nobody needs."""
        desired = {slot.placement.model: slot for slot in self._slots.values() if slot.wanted and slot.placement.serve}
        for model, slot in desired.items():
            if slot.state is SlotState.READY and self._serving.get(model) is not slot:
                self._switch(model, slot)
        for model in self._serving.keys() - desired.keys():
            del self._serving[model]
        return self._sweep()

    def _switch(self, model: str, slot: Slot) -> None:
        """The version before it answers on for a moment; the one before that had its moment."""
        before = self._serving.get(model)
        for each in self._slots.values():
            if each.placement.model == model:
                each.replaced = each is before and not each.wanted
        self._serving[model] = slot

    def _sweep(self) -> list[Slot]:
        kept = set(map(id, self._serving.values()))
        gone = [
            slot
            for slot in self._slots.values()
            if not (slot.wanted or slot.replaced or slot.in_use or id(slot) in kept)
        ]
        for slot in gone:
            del self._slots[slot.key]
            slot.model = None
        return gone

    # --- who answers -----------------------------------------------------------------------------------------

    def borrow(self, model: str, version: int = 0) -> Slot:
        """The slot that answers a request; give it back afterwards. Raises NotFound, Unavailable."""
        slot = self._serving.get(model)
        if slot is None or (version and slot.placement.version != version):
            slot = self._find(model, version)
        self._borrowed += 1
        slot.used = self._borrowed
        slot.in_flight += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        """The request that borrowed it is done; the last one of a slot on its way out unloads it."""
        slot.in_flight -= 1
        if not slot.wanted and not slot.in_flight:
            self._sweep()

    def _find(self, model: str, version: int) -> Slot:
        here = [slot for slot in self._slots.values() if slot.placement.model == model]
        if version:
            here = [slot for slot in here if slot.placement.version == version]
            ready = [slot for slot in here if slot.state is SlotState.READY]
            if ready:
                return ready[-1]
        name = f"{model}@{version}" if version else model
        if not here:
            raise NotFound(f"no model {name} on this device")
        raise Unavailable(f"{name} is {here[-1].state.value} on this device")

    # --- what to say about it --------------------------------------------------------------------------------

    def reports(self) -> tuple[ModelState, ...]:
        """One per slot, in the order assigned; none of what was replaced, unless a sequence lives there."""
        return tuple(slot.report() for slot in self._slots.values() if slot.sequences or not slot.replaced)

    def held(self) -> tuple[Slot, ...]:
        """All slots, whatever their state."""
        return tuple(self._slots.values())

    def good(self) -> tuple[Placement, ...]:
        """What serves now: to be remembered on disk and assigned first after a restart, until the new one is ready."""
        return tuple(slot.placement for slot in self._serving.values())

    def serving(self, model: str) -> Slot | None:
        """Who answers requests without a version."""
        return self._serving.get(model)


def _key(placement: Placement) -> Key:
    return placement.model, placement.version, placement.variant, placement.manifest
