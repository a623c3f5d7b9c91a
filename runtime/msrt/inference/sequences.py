"""The state of sequences on the machine that computes them: here and nowhere else. Decided here, without I/O.

A state belongs to one version of a model: a sequence ends on the version on which it began. Whatever is not known here
(never begun, ended, evicted, kept by a process that is no more) is a typed SequenceLost, never a fresh state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from msrt.errors import Overloaded, SequenceLost
from msrt.inference.slots import Slot
from msrt.protocol.messages import Infer

__all__ = ["GRACE_S", "Sequences", "Step"]

GRACE_S: Final = 5.0
"""A sequence that was used so shortly ago is not thrown out for a new one: else, with one too many, all are lost."""


class Step:
    """One request of a sequence, or a lone one (no name), between `begin` and `finish`. `run` may be in a thread."""

    __slots__ = ("after", "before", "ends", "name", "slot", "starts")

    def __init__(self, slot: Slot, message: Infer, before: Any) -> None:
        self.slot = slot
        self.name = message.sequence
        self.starts, self.ends = message.sequence_start, message.sequence_end
        self.before: Any = before
        self.after: Any = None

    def run(self, inputs: dict[str, Any], names: Sequence[str]) -> list[Any]:
        """Compute, and remember the state for `finish`."""
        outputs: list[Any]
        outputs, self.after = self.slot.model.step(inputs, names, self.before)  # type: ignore[union-attr]
        return outputs


class _Kept:
    """A sequence that goes on."""

    __slots__ = ("size", "state", "used")

    def __init__(self, state: Any, used: float) -> None:
        self.state, self.used = state, used
        self.size = sum(array.nbytes for array in state)


class Sequences:
    """All sequences of one machine, the least recently used first. Bounded in number, bytes and idle time."""

    def __init__(self, most: int, limit: int, idle_s: float, drain_s: float) -> None:
        """`limit`: bytes of all states. `drain_s`: how long sequences of a version that was replaced may go on."""
        self._most, self._limit, self._idle_s, self._drain_s = most, limit, idle_s, drain_s
        self._kept: OrderedDict[tuple[Slot, str], _Kept] = OrderedDict()
        self._leaving: dict[Slot, float] = {}
        self.size = 0
        """Bytes of all states."""
        self.lost = 0
        """Steps of sequences that are not known here."""
        self.evicted = 0
        """Sequences forgotten before their end."""

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, slot: Slot, message: Infer, now: float) -> Step:
        """Raises SequenceLost for a step of an unknown sequence, Overloaded for one sequence too many."""
        key = (slot, message.sequence)
        if not message.sequence:
            return Step(slot, message, None)
        self.expire(now)
        if message.sequence_start:
            if key not in self._kept and len(self._kept) >= self._most:
                self._make_room(now)
            return Step(slot, message, None)
        kept = self._kept.get(key)
        if kept is None:
            self.lost += 1
            raise SequenceLost(
                f"no state is kept of the sequence {message.sequence!r} of {message.model}", hint="begin it again"
            )
        kept.used = now
        self._kept.move_to_end(key)
        return Step(slot, message, kept.state)

    def finish(self, step: Step, now: float) -> None:
        """It was computed: keep what it left. One that was forgotten meanwhile stays forgotten."""
        key = (step.slot, step.name)
        known = self._remove(key)
        if not step.name or step.ends or not (known or step.starts):
            return
        kept = self._kept[key] = _Kept(step.after, now)
        step.slot.sequences += 1
        self.size += kept.size
        while self.size > self._limit and self._kept:
            self._evict(next(iter(self._kept)))

    def dropped(self, model: str, name: str, version: int) -> None:
        """A step was not computed, or its answer not told: what comes after it must not go on as if it had been."""
        for key in [key for key in self._kept if key[1] == name and _is(key[0], model, version)]:
            self._evict(key)

    def expire(self, now: float) -> None:
        """Forget those that were idle for too long."""
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if now - kept.used < self._idle_s:
                return
            self._evict(key)

    def drain(self, leaves: Callable[[Slot], bool], now: float) -> bool:
        """Forget those that are idle, and those whose version was replaced long ago. True: a version may be free."""
        before = len(self._kept)
        self.expire(now)
        leaving = {slot for slot, _ in self._kept if leaves(slot)}
        self._leaving = {slot: self._leaving.get(slot, now) for slot in leaving}
        for key in [key for key in self._kept if now - self._leaving.get(key[0], now) >= self._drain_s]:
            self._evict(key)
        return len(self._kept) != before

    def _make_room(self, now: float) -> None:
        key, kept = next(iter(self._kept.items()))
        if now - kept.used < GRACE_S:
            raise Overloaded(f"{len(self._kept)} sequences are in use here", hint="end some, or raise `sequences`")
        self._evict(key)

    def _evict(self, key: tuple[Slot, str]) -> None:
        self.evicted += 1
        self._remove(key)

    def _remove(self, key: tuple[Slot, str]) -> bool:
        kept = self._kept.pop(key, None)
        if kept is None:
            return False
        key[0].sequences -= 1
        self.size -= kept.size
        return True


def _is(slot: Slot, model: str, version: int) -> bool:
    return slot.placement.model == model and version in (0, slot.placement.version)
