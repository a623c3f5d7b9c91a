"""Inference on a device: batches in, answers out, nothing computed that nobody waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.inference.answer import answer
from msrt.inference.sequences import Sequences, Step
from msrt.inference.slots import Slot, Slots
from msrt.protocol.messages import Infer, InferFailed, Inferred
from msrt.world.world import World

__all__ = ["INLINE_US", "Requests"]

log = structlog.get_logger()
INLINE_US: Final = 1000
"""A model whose call takes less runs in the event loop; a slower one would hold it and goes to a thread."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A batch that is not computed at once."""

    peer: Peer
    message: Infer
    frames: list[Buffer]
    since: float
    deadline: float


class Requests:
    """Answers the edge's batches. `device`: this node's name, said in each answer.

    `bound`: batches that may wait for a thread, or for their model to be loaded; one more is refused, and the edge
    tries another device. `cold` is called when somebody waits for a model that is not in memory. `inline_us`: see
    INLINE_US; 0: every call waits for something, and goes to a thread.
    """

    def __init__(
        self,
        world: World,
        slots: Slots,
        device: str,
        bound: int,
        sequences: Sequences | None = None,
        cold: Callable[[], None] = lambda: None,
        inline_us: int = INLINE_US,
    ) -> None:
        self._world, self._slots, self._device, self._bound = world, slots, device, bound
        self._sequences = sequences or Sequences(1024, 64 << 20, 120.0, 30.0)
        self._wants_cold = cold
        self._inline_us = inline_us
        self._slowest_us = 0
        self._waiting: deque[_Waiting] = deque()
        self._cold: dict[Slot, list[_Waiting]] = {}
        """Waiting for their model; each batch has borrowed the slot, so that it stays wanted."""
        self._cancelled: set[int] = set()
        self._working = False
        self._rows = 0
        """That wait, for a thread or for a model."""
        self.answered = self.refused = self.expired = self.abandoned = 0

    @property
    def queued(self) -> int:
        """Batches that wait for a thread, or for their model."""
        return len(self._waiting) + sum(map(len, self._cold.values()))

    def take_slowest_us(self) -> int:
        """The longest call since this was last asked."""
        slowest, self._slowest_us = self._slowest_us, 0
        return slowest

    # --- in ---------------------------------------------------------------------------------------------------

    def received(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """One batch."""
        try:
            slot = self._slots.borrow(message.model, message.version)
        except errors.MsrtError as error:
            if message.sequence and not message.sequence_start:
                error = errors.SequenceLost(f"the sequence {message.sequence!r} is gone: {error.text}")
            self._refuse(peer, message, error)
            return
        if slot.cold:
            self._await(slot, peer, message, frames)
            return
        if not self._slow(slot, message):
            self._answer(peer, message, frames, slot=slot)
            return
        self._slots.give_back(slot)
        if self._room(peer, message):
            now = self._world.now()
            self._queue(_Waiting(peer, message, frames, now, now + message.deadline_ms / 1000))

    def _slow(self, slot: Slot, message: Infer) -> bool:
        """Must it wait for its turn in a thread? A sequence's steps keep their order, also behind one that is there."""
        return (
            bool(self._waiting)
            or max(slot.latency_us.values(), default=0) * sum(message.rows) > self._inline_us
            or (slot.keeps_state and self._working)
        )

    def _room(self, peer: Peer, message: Infer) -> bool:
        if self.queued < self._bound:
            return True
        self._refuse(peer, message, errors.Overloaded(f"{self._bound} batches wait on {self._device}"))
        return False

    def _queue(self, one: _Waiting) -> None:
        self._waiting.append(one)
        self._rows += sum(one.message.rows)
        if not self._working:
            self._working = True
            one.peer.spawn(self._work())

    def _await(self, slot: Slot, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """Its model is not in memory: wait until it is. The slot stays borrowed."""
        if not self._room(peer, message):
            self._slots.give_back(slot)
            return
        now = self._world.now()
        self._cold.setdefault(slot, []).append(_Waiting(peer, message, frames, now, now + message.deadline_ms / 1000))
        self._rows += sum(message.rows)
        self._wants_cold()

    def models_changed(self) -> None:
        """A slot may have been loaded, or have failed: those who waited for it go on."""
        for slot in [slot for slot in self._cold if not slot.cold]:
            for one in self._cold.pop(slot):
                self._rows -= sum(one.message.rows)
                if slot.model is None:
                    self._slots.give_back(slot)
                    error = errors.Unavailable(f"{one.message.model} could not be loaded again: {slot.error}")
                    self._refuse(one.peer, one.message, error)
                    continue
                slow = self._slow(slot, one.message)
                self._slots.give_back(slot)
                if slow:
                    self._queue(one)
                elif not self._late(one):
                    self._answer(one.peer, one.message, one.frames, one.since)

    def cancelled(self, ids: tuple[int, ...]) -> None:
        """Nobody waits for these any more: a batch of which that holds for all riders is dropped at once."""
        if not self._waiting and not self._cold:
            return
        self._cancelled.update(ids)
        for one in [each for each in self._waiting if self._cancelled.issuperset(each.message.ids)]:
            self._waiting.remove(one)
            self._drop(one)
        for slot, waiting in list(self._cold.items()):
            for one in [each for each in waiting if self._cancelled.issuperset(each.message.ids)]:
                waiting.remove(one)
                self._drop(one)
                self._slots.give_back(slot)
            if not waiting:
                del self._cold[slot]
        if not self._waiting and not self._cold:
            self._cancelled.clear()

    def _drop(self, one: _Waiting) -> None:
        self.abandoned += len(one.message.ids)
        self._rows -= sum(one.message.rows)
        self._hole(one.message)

    def forget(self) -> None:
        """The edge is gone; so is everyone who waited."""
        for one in self._waiting:
            self._hole(one.message)
        self._waiting.clear()
        for slot, waiting in self._cold.items():
            for one in waiting:
                self._hole(one.message)
                self._slots.give_back(slot)
        self._cold.clear()
        self._cancelled.clear()
        self._working = False
        self._rows = 0

    def _late(self, one: _Waiting) -> bool:
        """Its callers are gone: it is not computed."""
        if self._world.now() <= one.deadline:
            return False
        self.expired += len(one.message.ids)
        self._hole(one.message)
        return True

    def _hole(self, message: Infer) -> None:
        """A step that was not taken, or not told: its sequence cannot go on as if it had been."""
        if message.sequence:
            self._sequences.dropped(message.model, message.sequence, message.version)

    # --- computed and out -------------------------------------------------------------------------------------

    def _answer(
        self, peer: Peer, message: Infer, frames: list[Buffer], since: float = 0.0, slot: Slot | None = None
    ) -> None:
        """`slot`: borrowed already; given back here."""
        try:
            if slot is None:
                slot = self._slots.borrow(message.model, message.version)
            step = None
            try:
                if slot.keeps_state:
                    step = self._sequences.begin(slot, message, self._world.now())
                begun = self._world.now() if since else 0.0
                reply, outputs = answer(slot, message, frames, device=self._device, now=self._world.now, step=step)
                if step is not None:
                    self._sequences.finish(step, self._world.now())
            finally:
                self._slots.give_back(slot)
            self._send(peer, self._probed(reply, begun - since), outputs)
        except errors.MsrtError as error:
            self._refuse(peer, message, error)

    def _probed(self, reply: Inferred, waited_s: float) -> Inferred:
        """With what it waited, and what waits behind it: a fresh look at this device's load."""
        if not waited_s and not self._rows:
            return reply
        return msgspec.structs.replace(reply, queue_us=int(waited_s * 1e6), depth=self._rows)

    def _send(self, peer: Peer, reply: Inferred, outputs: list[Buffer]) -> None:
        """Raises FrameTooLarge where the link cannot carry the outputs."""
        self._slowest_us = max(self._slowest_us, reply.compute_us)
        peer.send(reply, outputs)
        self.answered += len(reply.ids)

    async def _work(self) -> None:
        try:
            while self._waiting:
                one = self._waiting.popleft()
                self._rows -= sum(one.message.rows)
                if not self._late(one):
                    await self._offload(one)
            if not self._cold:
                self._cancelled.clear()
        finally:
            self._working = False

    async def _offload(self, one: _Waiting) -> None:
        message = one.message
        try:
            slot = self._slots.borrow(message.model, message.version)
            if slot.cold:  # it went while this waited
                self._cold.setdefault(slot, []).append(one)
                self._rows += sum(message.rows)
                self._wants_cold()
                return
            step: Step | None = None
            begun = self._world.now()
            try:
                if slot.keeps_state:
                    step = self._sequences.begin(slot, message, begun)
                reply, outputs = await self._world.offload(
                    lambda: answer(slot, message, one.frames, device=self._device, now=self._world.now, step=step)
                )
                if step is not None:
                    self._sequences.finish(step, self._world.now())
            finally:
                self._slots.give_back(slot)
            self._send(one.peer, self._probed(reply, begun - one.since), outputs)
        except errors.MsrtError as error:
            self._refuse(one.peer, message, error)

    def _refuse(self, peer: Peer, message: Infer, error: errors.MsrtError) -> None:
        self.refused += len(message.ids)
        if isinstance(error, errors.FrameTooLarge | errors.Disconnected):
            self._hole(message)
        try:
            peer.send(InferFailed(message.ids, error.code, error.text, error.hint))
        except (errors.Disconnected, errors.Overloaded):  # the edge's own deadline tells the caller
            log.info("infer.answer_undeliverable", model=message.model, count=len(message.ids))
