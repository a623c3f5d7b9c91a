"""Slots in memory: for trees in simulation, where they outlive the process that is said to crash."""

from __future__ import annotations

from collections.abc import Callable

from msrt.artifacts.images import Image
from msrt.errors import Conflict
from msrt_device.updater.slots import Found, Held, ReadAt, SlotState, pieces

__all__ = ["MemoryBank", "MemorySlots"]


class MemoryBank:
    """What lies on the disk: it is there before and after every process."""

    def __init__(self, version: str) -> None:
        self.held = {"a": Held(version)}
        self.bytes: dict[str, bytes] = {}
        self.index: dict[str, bytes] = {}
        self.current = "a"
        self.armed, self.left = "", 0
        self.fallen, self.why = Held(""), ""

    def start(self) -> str:
        """What a launcher does: the slot to start now, one of its tries counted."""
        if self.armed and not self.left:
            self.fall("it was started and ended before it was committed")
        if self.armed:
            self.left -= 1
            return self.armed
        return self.current

    def fall(self, why: str) -> None:
        """The trial is over, and lost."""
        if self.armed:
            self.fallen, self.why, self.armed, self.left = self.held[self.armed], why, "", 0


class MemorySlots:
    """Implements `Slots` for one process that was started from `active`."""

    def __init__(self, bank: MemoryBank, active: str, leave: Callable[[], None] = lambda: None) -> None:
        self.bank, self._active, self._leave = bank, active, leave

    @property
    def _inactive(self) -> str:
        return "b" if self._active == "a" else "a"

    def state(self) -> SlotState:
        bank = self.bank
        return SlotState(
            self._active, self._inactive, dict(bank.held), trial=self._active != bank.current,
            armed=bank.armed if bank.left else "", fallen=bank.fallen, why=bank.why,
        )  # fmt: skip

    def write(self, image: Image, read: ReadAt, index: bytes = b"") -> None:
        bank, slot = self.bank, self._inactive
        if slot == bank.current:
            raise Conflict(f"slot {slot} is the one to fall back to")
        bank.armed, bank.left = "", 0
        bank.held.pop(slot, None)
        bank.bytes[slot] = b"".join(bytes(piece) for piece in pieces(image, read))
        bank.index[slot] = index
        bank.held[slot] = Held(image.version, image.digest)

    def arm(self, tries: int, trial_s: float) -> None:  # noqa: ARG002 - a simulated process ends by itself
        bank, slot = self.bank, self._inactive
        if tries <= 0:
            bank.armed, bank.left = "", 0
            return
        if slot not in bank.held or slot == bank.current:
            raise Conflict(f"slot {slot} holds nothing that could be tried")
        bank.armed, bank.left = slot, tries

    def commit(self) -> None:
        bank = self.bank
        if self._active not in {bank.current, bank.armed}:
            raise Conflict(f"slot {self._active} is not on trial any more")
        bank.current, bank.armed, bank.left = self._active, "", 0

    def restart(self) -> None:
        self._leave()

    def seed(self) -> Found | None:
        data = self.bank.bytes.get(self._active)
        if data is None:
            return None
        index = self.bank.index.get(self._active, b"")
        return Found(len(data), lambda offset, size: data[offset : offset + size], index)
