"""One update on its way in, and what a round says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from msrt.buffers import Buffer
from msrt.hop import Gather, Peer
from msrt.protocol.messages import RoundClosed, RoundOpen, UpdateMeta

__all__ = ["UpdateSink", "is_anew", "is_welcome", "told_to"]


class UpdateSink(Gather):
    """Collects one update; a bounded number at once, the others wait for credit."""

    def __init__(self, slots: asyncio.Semaphore, *gather: Any) -> None:
        super().__init__(*gather)
        self._slots, self._held = slots, False

    async def write(self, offset: int, data: Buffer) -> None:
        if not self._held:
            await self._slots.acquire()
            self._held = True
        await super().write(offset, data)

    async def complete(self, size: int, digest: str) -> None:
        try:
            await super().complete(size, digest)
        finally:
            self._release()

    def abort(self, error: Exception) -> None:
        super().abort(error)
        self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._slots.release()


def told_to(message: RoundClosed, peer: Peer) -> RoundClosed:
    """What one device needs to know of it."""
    node = peer.node
    late = {node: message.late[node]} if node in message.late else {}
    return msgspec.structs.replace(message, included=(node,) if node in message.included else (), late=late)


def is_anew(known: RoundOpen, message: RoundOpen) -> bool:
    """Did the cloud give the round up and open it again? Then masked updates are worth nothing any more."""
    was, now = known.plan.secure, message.plan.secure
    return was is not None and now is not None and now.opening > was.opening


def is_welcome(meta: UpdateMeta, message: RoundOpen) -> bool:
    """Is it of this round, or of one whose updates still count?"""
    return meta.round == message.round or 0 < message.plan.since <= meta.round < message.round
