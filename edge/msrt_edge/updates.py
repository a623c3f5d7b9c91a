"""Updates on their way in, and what the cloud should have on its way up."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Gather, Peer
from msrt.learning.compress import Codec
from msrt.protocol.messages import RoundClosed, RoundOpen, StreamOpen, UpdateMeta
from msrt.world.world import World
from msrt_edge.region import OpenRound

__all__ = ["UpdateSink", "Upward", "announced", "fault_of_size", "is_anew", "is_welcome", "told_to"]

log = structlog.get_logger()
RESEND_S: Final = 1.0
UPDATE_LIMIT: Final = 1 << 30


class Upward:
    """What the cloud should have of open rounds, sent until it is there. `cloud` is the session with it, if any."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cloud: Peer | None = None

    def send(self, opened: OpenRound) -> None:
        """What is in its outbox and was not delivered."""
        cloud = self.cloud
        if cloud is None or not cloud.live:
            return
        for key in opened.outbox:
            if key not in opened.delivered:
                opened.delivered.add(key)
                cloud.spawn(self._push(cloud, opened, key))

    async def _push(self, cloud: Peer, opened: OpenRound, key: str) -> None:
        while key in opened.outbox and cloud.live:
            meta, payload = opened.outbox[key]
            digest = await opened.spool.digest(payload, quickly=opened.message.checksums)
            try:
                await cloud.push("update", msgspec.to_builtins(meta), payload, size=len(payload), digest=digest)
                if opened.spool.used:
                    await self._world.offload(opened.spool.release)
            except (errors.BadUpdate, errors.StreamCancelled) as error:
                log.warning("round.sum_refused", job=meta.job, round=meta.round, error=errors.words_of(error))
                return
            except errors.Disconnected:
                opened.delivered.discard(key)
                return
            except errors.MsrtError as error:
                log.info("round.sum_again", job=meta.job, error=errors.words_of(error))
                await asyncio.sleep(RESEND_S)
                continue
            return


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


def announced(peer: Peer, opened: StreamOpen) -> UpdateMeta:
    """The update that a device's stream says it is. Raises BadUpdate for what is malformed, another's or too large."""
    try:
        meta = msgspec.convert(opened.meta, UpdateMeta)
    except msgspec.ValidationError as error:
        raise errors.BadUpdate(f"a malformed update: {error}") from None
    if opened.size > UPDATE_LIMIT or set(meta.nodes) != {peer.node}:
        raise errors.BadUpdate(f"{peer.name} may send an update of its own of at most {UPDATE_LIMIT} bytes")
    return meta


def fault_of_size(size: int, codec: Codec) -> str:
    """Why a stream of so many bytes cannot be such an update; empty: it can."""
    if 0 <= size <= codec.bytes:
        return ""
    said = f"an update of {size} bytes" if size >= 0 else "an update of unknown length"
    return f"{said}, expected at most {codec.bytes} for {codec.size} parameters as {codec.name}"


def told_to(message: RoundClosed, node: str, *, included: Container[str] | None = None) -> RoundClosed:
    """What one device needs to know of it. `included`: those of the message as a set, for who tells many."""
    late = {node: message.late[node]} if node in message.late else {}
    counted = node in (message.included if included is None else included)
    return msgspec.structs.replace(message, included=(node,) if counted else (), late=late)


def is_anew(known: RoundOpen, message: RoundOpen) -> bool:
    """Did the cloud give the round up and open it again? Then masked updates are worth nothing any more, and what was
    for a region's rule may have to come up alone.
    """
    if (known.plan.rule, known.plan.alone) != (message.plan.rule, message.plan.alone):
        return True
    was, now = known.plan.secure, message.plan.secure
    return was is not None and now is not None and now.opening > was.opening


def is_welcome(meta: UpdateMeta, message: RoundOpen) -> bool:
    """Is it of this round, or of one whose updates still count?"""
    return meta.round == message.round or 0 < message.plan.since <= meta.round < message.round
