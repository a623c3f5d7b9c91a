"""Inference on a device: batches in, answers out, nothing computed that nobody waits for."""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog

from msrt import errors
from msrt.hop import Peer
from msrt.inference.answer import answer
from msrt.inference.slots import Slots
from msrt.links.link import Buffer
from msrt.protocol.messages import Infer, InferFailed, Inferred
from msrt.world.world import World

__all__ = ["Requests"]

log = structlog.get_logger()
INLINE_US: Final = 1000
"""A model whose call takes less runs in the event loop; a slower one would hold it and goes to a thread."""


class Requests:
    """Answers the edge's batches. `device`: this node's name, said in each answer.

    `bound`: batches of slow models that may wait; one more is refused, and the edge tries another device.
    """

    def __init__(self, world: World, slots: Slots, device: str, bound: int) -> None:
        self._world, self._slots, self._device, self._bound = world, slots, device, bound
        self._slowest_us = 0
        self._waiting: deque[tuple[Peer, Infer, list[Buffer], float]] = deque()
        self._cancelled: set[int] = set()
        self._working = False
        self.answered = self.refused = self.expired = 0

    @property
    def queued(self) -> int:
        """Batches that wait for a thread."""
        return len(self._waiting)

    def take_slowest_us(self) -> int:
        """The longest call since this was last asked."""
        slowest, self._slowest_us = self._slowest_us, 0
        return slowest

    def received(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """One batch."""
        try:
            slot = self._slots.borrow(message.model, message.version)
        except errors.MsrtError as error:
            self._refuse(peer, message, error)
            return
        slow = max(slot.latency_us.values(), default=0) * sum(message.rows) > INLINE_US
        self._slots.give_back(slot)
        if not slow and not self._waiting:
            self._answer(peer, message, frames)
            return
        if len(self._waiting) >= self._bound:
            self._refuse(peer, message, errors.Overloaded(f"{self._bound} batches wait on {self._device}"))
            return
        self._waiting.append((peer, message, frames, self._world.now() + message.deadline_ms / 1000))
        if not self._working:
            self._working = True
            peer.spawn(self._work())

    def cancelled(self, ids: tuple[int, ...]) -> None:
        """Nobody waits for these any more."""
        if self._waiting:
            self._cancelled.update(ids)

    def forget(self) -> None:
        """The edge is gone; so is everyone who waited."""
        self._waiting.clear()
        self._cancelled.clear()
        self._working = False

    def _answer(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        try:
            slot = self._slots.borrow(message.model, message.version)
            try:
                reply, outputs = answer(slot, message, frames, device=self._device, now=self._world.now)
            finally:
                self._slots.give_back(slot)
            self._send(peer, reply, outputs)
        except errors.MsrtError as error:
            self._refuse(peer, message, error)

    def _send(self, peer: Peer, reply: Inferred, outputs: list[Buffer]) -> None:
        """Raises FrameTooLarge where the link cannot carry the outputs."""
        self._slowest_us = max(self._slowest_us, reply.compute_us)
        peer.send(reply, outputs)
        self.answered += len(reply.ids)

    async def _work(self) -> None:
        try:
            while self._waiting:
                peer, message, frames, deadline = self._waiting.popleft()
                if self._world.now() > deadline or self._cancelled.issuperset(message.ids):
                    self.expired += len(message.ids)
                    continue
                await self._offload(peer, message, frames)
            self._cancelled.clear()
        finally:
            self._working = False

    async def _offload(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        try:
            slot = self._slots.borrow(message.model, message.version)
            try:
                reply, outputs = await self._world.offload(
                    lambda: answer(slot, message, frames, device=self._device, now=self._world.now)
                )
            finally:
                self._slots.give_back(slot)
            self._send(peer, reply, outputs)
        except errors.MsrtError as error:
            self._refuse(peer, message, error)

    def _refuse(self, peer: Peer, message: Infer, error: errors.MsrtError) -> None:
        self.refused += len(message.ids)
        try:
            peer.send(InferFailed(message.ids, error.code, error.text, error.hint))
        except (errors.Disconnected, errors.Overloaded):  # the edge's own deadline tells the caller
            log.info("infer.answer_undeliverable", model=message.model, count=len(message.ids))
