"""Which models are in memory at a time. Pure.

A model's bytes are estimated from its files, not measured: growth of the process cannot be told apart by model (freed
pages are handed to whoever loads next, so the second session often seems to cost nothing), it is known only when the
memory is taken already, and it differs from run to run. Sessions of this machine's engine took 1.0 to 1.4 times their
file where that could be seen; we count a half more, and a fixed part for the session itself.
"""

from __future__ import annotations

from typing import Final

from msrt.errors import InvalidModel
from msrt.inference.bundle import Manifest
from msrt.inference.slots import Slot, Slots, SlotState

__all__ = ["Budget", "weight"]

SESSION_BYTES: Final = 256 << 10


def weight(manifest: Manifest, variant: str) -> int:
    """Bytes that this variant takes when loaded."""
    stages = sum(stage.size for stage in (manifest.pre, manifest.post) if stage is not None)
    return (manifest.variants[variant].size + stages) * 3 // 2 + SESSION_BYTES


class Budget:
    """`limit`: bytes for all models; 0: as many as are assigned."""

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit

    def weight(self, manifest: Manifest, variant: str) -> int:
        """Bytes of it here."""
        return weight(manifest, variant)

    def used(self, slots: Slots) -> int:
        """Bytes of the models that are loaded."""
        return sum(slot.size for slot in slots.held() if slot.model is not None)

    def room(self, slots: Slots, wanted: Slot, size: int) -> list[Slot] | None:
        """What must go so that `wanted` fits: what was replaced, then the least recently used, last the version that it
        replaces; never one in use. None: not until somebody is done with one. Raises InvalidModel for what will never
        fit."""
        if not self.limit:
            return []
        if size > self.limit:
            raise InvalidModel(
                f"it takes {_mib(size)}, and {_mib(self.limit)} are for models here", hint="raise --model-memory"
            )
        over = self.used(slots) + size - self.limit
        loaded = [s for s in slots.held() if s.model is not None and s.state is SlotState.READY and s is not wanted]
        name = wanted.placement.model
        going: list[Slot] = []
        free = [s for s in loaded if not s.in_use]
        for slot in sorted(free, key=lambda s: (not s.replaced, s.placement.model == name, s.used)):
            if over <= 0:
                break
            going.append(slot)
            over -= slot.size
        return going if over <= 0 else None

    def prefetch(self, slots: Slots) -> Slot | None:
        """The most popular model that is not loaded and for which there is room as it is."""
        free = self.limit - self.used(slots)
        cold = [slot for slot in slots.held() if slot.cold and slot.wanted and slot.size <= free and not slot.retry_at]
        return max(cold, key=lambda slot: (slot.popularity, slot.used), default=None)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
