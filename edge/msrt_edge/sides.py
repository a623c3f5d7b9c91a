"""The two faces of an edge: child of the cloud, parent of devices and front of clients. Peers are heard here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts.ranges import serve_ranges
from msrt.artifacts.transfer import serve
from msrt.buffers import Buffer
from msrt.hop import Peer, StreamSink
from msrt.hop.parcel import PUSH
from msrt.protocol.messages import (
    DeviceReport,
    FollowRefused,
    Infer,
    InferCancel,
    InferFailed,
    Inferred,
    JournalBlock,
    Load,
    Message,
    Push,
    RoundClosed,
    RoundOpen,
    SecureKeys,
    SecureOut,
    SecureReveal,
    SecureShares,
    StreamOpen,
    WorkersHere,
)
from msrt.trust.roles import Role, check_call
from msrt.trust.tuf.claims import bundle_claim

if TYPE_CHECKING:
    from msrt_edge.master import Edge

__all__ = ["Above", "Below"]

log = structlog.get_logger()
DOWN: Final = frozenset({"logs", "diagnose", "job", "personal", "personal.part"})
"""What the cloud asks of a device through its edge."""


class Above:
    """The edge as the cloud's child."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def joined(self, peer: Peer) -> None:
        log.info("edge.cloud_joined", cloud=peer.node)
        self._edge.follower.attach(peer)
        self._edge.trust.attach()
        self._edge.events.upward.attach(peer)
        self._edge.training.attach(peer)
        self._edge.parameters.attach(peer)
        self._edge.fleet.telling.restart()
        self._edge.served.restart()
        self._edge.fleet.changed.set()
        self._edge.service.others_changed()

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        self._edge.service.relay.gone(peer)
        if final:
            self._edge.service.gone(peer)
            self._edge.service.others_changed()
            self._edge.cloud_left_at = self._edge.world.now()
            log.warning("edge.cloud_away", error=errors.words_of(error))
            self._edge.events.upward.detach(peer)
            self._edge.training.detach()
            self._edge.parameters.detach()

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        edge = self._edge
        match message:
            case JournalBlock():
                edge.follower.block(peer, message, frames)
            case FollowRefused():
                edge.follower.stopped(message)
            case Inferred():
                edge.service.relay.answered(peer, message, frames)
            case InferFailed():
                edge.service.relay.failed(peer, message)
            case Infer():
                edge.service.from_peer(peer, message, frames)
            case InferCancel():
                edge.service.cancelled(peer, message)
            case RoundOpen():
                peer.spawn(self._round(message, frames))
            case RoundClosed():
                peer.spawn(edge.training.closed(message, list(edge.device_peers().values())))
            case _:
                log.warning("edge.unexpected_message", type=type(message).__name__)

    async def _round(self, message: RoundOpen, frames: list[Buffer]) -> None:
        try:
            await self._edge.trust.vouch(bundle_claim(message.job, message.bundle, message.signature))
            await self._edge.training.opened(message, frames)
        except errors.MsrtError as error:
            log.warning("round.not_opened", job=message.job, round=message.round, error=errors.words_of(error))

    async def called(self, _peer: Peer, method: str, params: dict[str, object]) -> object:
        if method == "model.shadow":
            views = self._edge.service.shadows(str(params.get("model", "")))
            return [msgspec.to_builtins(view) for view in views]
        family, _, what = method.partition(".")
        node = params.get("node")
        if family != "node" or what not in DOWN or not isinstance(node, str):
            raise errors.NotFound(f"an edge has no method {method!r} for its cloud")
        return await self._edge.below(node, what, {k: v for k, v in params.items() if k not in ("node", "_call")})

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        if opened.kind == "snapshot":
            return self._edge.follower.snapshot(peer, opened)
        raise errors.Forbidden(f"an edge takes no stream {opened.kind} from its cloud")

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None:
        raise errors.Forbidden("an edge keeps nothing for its cloud")


class Below:
    """The edge as the parent of devices, and the front of clients."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def joined(self, peer: Peer) -> None:
        if peer.role != Role.DEVICE:
            return
        edge = self._edge
        log.info("edge.device_joined", device=peer.name, node=peer.node)
        edge.metrics.leases.labels("device").inc()
        edge.requests.worker_up(peer)
        edge.fleet.joined(peer)
        edge.training.device_joined(peer)
        edge.parameters.device_joined(peer)

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        edge = self._edge
        if peer.role != Role.DEVICE:
            if final:
                edge.service.gone(peer)
            return
        if peer.node in edge.device_peers():
            edge.metrics.leases.labels("device").dec()
            log.warning("edge.device_lost", device=peer.name, error=errors.words_of(error))
        edge.requests.worker_down(peer)
        edge.fleet.left(peer.node)
        edge.refresh_tables()
        if final:
            edge.parameters.device_left(peer.node)
            edge.meetings.left(peer.node)
            task = asyncio.get_running_loop().create_task(edge.training.device_left(peer.node))
            task.add_done_callback(lambda done: done.cancelled() or done.result())

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        requests, device = self._edge.requests, peer.role == Role.DEVICE
        match message:
            case Inferred() if device:
                requests.answered(peer, message, frames)
            case InferFailed() if device:
                requests.failed(peer, message)
            case Infer() if not device:
                self._edge.service.from_peer(peer, message, frames)
            case InferCancel() if not device:
                self._edge.service.cancelled(peer, message)
            case Push():
                self._edge.parameters.pushed(peer, message, frames)
            case WorkersHere() if peer.role == Role.EDGE:
                self._edge.parameters.workers_here(message)
            case DeviceReport() if device:
                self._reported(peer, message)
            case SecureKeys() | SecureShares() | SecureReveal() | SecureOut() if device:
                self._edge.training.secure_said(peer, message)
            case Load() if device:
                self._edge.fleet.devices[peer.node].values = message.values
            case _:
                log.warning("edge.unexpected_message", peer=peer.name, type=type(message).__name__)

    def _reported(self, peer: Peer, report: DeviceReport) -> None:
        edge = self._edge
        edge.fleet.report(peer, report)
        edge.images_wanted()
        edge.requests.report(peer, report)
        edge.refresh_tables()

    async def called(self, peer: Peer, method: str, params: dict[str, object]) -> object:
        check_call(peer.role, method)
        edge = self._edge
        match method:
            case "artifact.get":
                return await serve(edge.artifacts, peer, params, edge.fetch_blob)
            case "artifact.ranges":
                return await serve_ranges(edge.artifacts, peer, params, edge.fetch_blob)
            case "trust.get":
                return await edge.trust.answer(params)
            case "edges":
                return [msgspec.to_builtins(parent, builtin_types=(bytes,)) for parent in edge.known_edges]
            case "models":
                return sorted(edge.follower.state.rollouts_in(edge.region))
            case "metadata":
                model, version = params.get("model"), params.get("version", 0)
                if not isinstance(model, str) or not isinstance(version, int):
                    raise errors.CallerError("metadata takes a model's name, and perhaps a version")
                return msgspec.to_builtins(edge.fleet.metadata(model, version))
            case "cluster.meet":
                return edge.meetings.meet(peer, params)
        raise errors.NotFound(f"an edge has no method {method!r}")

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        if opened.kind == "update" and peer.role == Role.DEVICE:
            return self._edge.training.stream(peer, opened)
        if opened.kind == PUSH and peer.role in (Role.DEVICE, Role.EDGE):
            return self._edge.parameters.push_stream(peer, opened)
        raise errors.Forbidden(f"a {peer.role} may not send a stream {opened.kind}")

    async def stored(self, peer: Peer, messages: list[Message]) -> None:
        if peer.role != Role.DEVICE:
            raise errors.Forbidden(f"a {peer.role} posts no events")
        await self._edge.events.stored(messages)
