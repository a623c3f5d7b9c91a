"""An edge asked over ZeroMQ (or the simulation's link): a hop session, requests that ride together."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.client.front import Front, Owner
from msrt.client.request import Request, answers_of
from msrt.hop import Peer, StreamSink, Uplink
from msrt.joining import Membership, endpoint_for, hello_of
from msrt.protocol import wire
from msrt.protocol.messages import (
    Infer,
    InferCancel,
    InferFailed,
    Inferred,
    Message,
    Parent,
    StreamOpen,
    TensorSpec,
)
from msrt.serving.backend import ModelInfo
from msrt.trust.identity import Identity
from msrt.world.world import World

__all__ = ["Member", "PeerFront", "Quiet", "edges_of"]

log = structlog.get_logger()
CALL_S: Final = 5.0
RIDERS: Final = 1024
"""Requests in one message."""
ROOM: Final = 64 << 10
"""Of a packet, left for the header that names the riders."""
Member = tuple[World, Identity, Membership]


class Quiet:
    """What a client hears unasked: nothing. The base of those who hear a little."""

    def joined(self, peer: Peer) -> None:
        """The session is live."""

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        """The session is gone; calls fail by themselves."""

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        """Nothing is sent to clients but answers."""

    async def called(self, _peer: Peer, method: str, _params: dict[str, object]) -> object:
        raise errors.Forbidden(f"a client does not answer {method}")

    def stream(self, _peer: Peer, opened: StreamOpen) -> StreamSink:
        raise errors.Forbidden(f"a client takes no stream {opened.kind}")

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None:
        raise errors.Forbidden("a client keeps nothing")


def edges_of(answer: object) -> list[Parent]:
    """What the call `edges` returns. Raises MalformedFrame."""
    try:
        return msgspec.convert(answer, list[Parent], builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise errors.MalformedFrame(f"not a list of edges: {error}") from error


class PeerFront(Quiet, Front):
    """One edge, and only that one: another is another front."""

    def __init__(self, member: Member, edge: Parent, owner: Owner) -> None:
        world, identity, membership = member
        self.edge, self.url = edge, edge.zmq
        self.forgetful, self.latency_s = True, math.inf
        self._owner = owner
        hello = hello_of(world, identity, membership)
        self.uplink = Uplink(world, hello, [edge], endpoint_for(identity, membership), self, roams=False)

    @property
    def live(self) -> bool:
        peer = self.uplink.peer
        return peer is not None and peer.live

    @property
    def refused(self) -> errors.MsrtError | None:
        """Why the edge sent us away for good, if it did."""
        return self.uplink.hopeless

    @property
    def away(self) -> errors.MsrtError | None:
        """What the last attempt to join it ended with."""
        return self.uplink.refused

    async def run(self) -> None:
        try:
            await self.uplink.run()
        finally:
            self.uplink.close()

    async def metadata(self, model: str, version: int) -> ModelInfo:
        found = await self.uplink.call("metadata", {"model": model, "version": version}, CALL_S)
        try:
            return msgspec.convert(found, ModelInfo)
        except msgspec.ValidationError as error:
            raise errors.MalformedFrame(f"not a model's description: {error}") from error

    async def edges(self) -> list[Parent]:
        loop = asyncio.get_running_loop()
        await self.uplink.wait(CALL_S)
        began = loop.time()
        found = edges_of(await self.uplink.call("edges", {}, CALL_S))
        self.latency_s = loop.time() - began
        return found

    # --- asking

    def send(self, requests: Sequence[Request]) -> None:
        peer = self.uplink.peer
        if peer is None:
            asyncio.get_running_loop().call_soon(self._owner.down, self)
            return
        room = peer.limit - ROOM
        batches: dict[Any, tuple[list[Request], int]] = {}
        for request in requests:
            key = id(request) if request.alone else request.key
            batch, size = batches.get(key, ([], 0))
            if batch and (size + request.size > room or len(batch) >= RIDERS):
                self._ask(peer, batch)
                batch, size = [], 0
            batch.append(request)
            batches[key] = (batch, size + request.size)
        for batch, _ in batches.values():
            self._ask(peer, batch)

    def _ask(self, peer: Peer, batch: list[Request]) -> None:
        first = batch[0]
        ask, inputs, frames = first.ask, first.inputs, first.frames
        if len(batch) > 1:
            ids, rows = tuple([request.id for request in batch]), tuple([request.rows for request in batch])
            total = sum(rows)
            deadline = min([request.deadline for request in batch])
            inputs = tuple([TensorSpec(i.name, i.dtype, (total, *i.shape[1:])) for i in inputs])
            frames = tuple([b"".join([request.frames[i] for request in batch]) for i in range(len(inputs))])
        else:
            ids, rows, deadline = (first.id,), (max(1, first.rows),), first.deadline
        left = deadline - asyncio.get_running_loop().time()
        message = Infer(
            ids, rows, ask.model, inputs, ask.version, max(1, int(left * 1000)), ask.outputs, ask.trace, ask.priority,
            ask.sequence, ask.sequence_start, ask.sequence_end,
        )  # fmt: skip
        try:
            peer.send(message, frames)
        except errors.MsrtError as error:
            for request in batch:
                asyncio.get_running_loop().call_soon(self._owner.failed, request.id, error, self)

    def cancel(self, idents: Sequence[int]) -> None:
        peer = self.uplink.peer
        if peer is not None:
            with contextlib.suppress(errors.Disconnected, errors.Overloaded):
                for start in range(0, len(idents), RIDERS):
                    peer.send(InferCancel(tuple(idents[start : start + RIDERS])))

    # --- hearing

    def joined(self, peer: Peer) -> None:
        log.debug("client.edge_joined", edge=self.url, node=peer.node)
        self._owner.up(self)

    def left(self, _peer: Peer, error: Exception, *, final: bool) -> None:
        log.debug("client.edge_left", edge=self.url, final=final, error=errors.words_of(error))
        self._owner.down(self)

    def message(self, _peer: Peer, message: Message, frames: list[Buffer]) -> None:
        match message:
            case Inferred():
                try:
                    answers = answers_of(message, frames)
                except errors.MalformedFrame as error:
                    self._failed(message.ids, error, 0.0)
                    return
                for ident, answer in zip(message.ids, answers, strict=True):
                    self._owner.answered(ident, answer, self)
            case InferFailed():
                failure = errors.from_wire(message.code, message.text, message.hint)
                self._failed(message.ids, failure, message.retry_after_ms / 1000)

    def _failed(self, idents: tuple[int, ...], error: errors.MsrtError, retry_after: float) -> None:
        for ident in idents:
            self._owner.failed(ident, error, self, retry_after)


assert ROOM < wire.MQTT_LIMIT
