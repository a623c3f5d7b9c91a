"""The cloud master: the journal that everybody follows, the registry, rollouts, training, and the operators' desk.

start: open the journal, listen. run: feed edges, watch rollouts, run jobs. drain: stop jobs where they can go on,
say goodbye. Everything it said yes to is in the journal before it says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.transfer import receive, serve
from msrt.buffers import Buffer
from msrt.dispatch.decisions import Entry
from msrt.dispatch.sequential import Limits
from msrt.hop import Downlink, Peer, StreamSink
from msrt.joining import next_boot
from msrt.journal.log import Log
from msrt.journal.writer import Writer
from msrt.links.link import Credentials
from msrt.protocol.messages import (
    FleetReport,
    Follow,
    Load,
    Message,
    Parent,
    ServingReport,
    StreamOpen,
    TrainProgress,
)
from msrt.settings import CloudConfig
from msrt.telemetry.metrics import Metrics
from msrt.telemetry.spans import Tracer
from msrt.training.accounting import Accountant, account_apart
from msrt.training.tails import Tails
from msrt.training.trainer import Workshop
from msrt.trust.certificate import Certificate
from msrt.trust.identity import Identity, Purpose
from msrt.trust.roles import Role, check_call
from msrt.trust.tuf.floor import GET, Floor
from msrt.world.world import World
from msrt_cloud.addresses import Addresses
from msrt_cloud.control import Control
from msrt_cloud.events import Events
from msrt_cloud.evidence import Bounds
from msrt_cloud.feed import Feed
from msrt_cloud.fleet import Fleet
from msrt_cloud.gate import CloudGate
from msrt_cloud.images import Images
from msrt_cloud.orphans import Orphans, named
from msrt_cloud.registry import Prepare, Registry
from msrt_cloud.rollout import Pace
from msrt_cloud.rollouts import Rollouts
from msrt_cloud.served import Served
from msrt_cloud.serving import Serving
from msrt_cloud.signing import KeyRing, Periods, Repository, SeededRing
from msrt_cloud.signing.journal import signed_for
from msrt_cloud.training import Means, Training
from msrt_cloud.triggering import Triggers
from msrt_cloud.updates import Updates

__all__ = ["Cloud", "CloudSetup", "build"]

log = structlog.get_logger()
UPLOAD_LIMIT = 4 << 30


@dataclass(frozen=True)
class CloudSetup:
    """What the cloud is made of, beside its world."""

    identity: Identity
    listen: Sequence[tuple[str, Credentials]]
    prepare: Prepare
    workshop: Callable[[str], Workshop]
    config: CloudConfig = field(default_factory=CloudConfig)
    address: Parent = field(default_factory=lambda: Parent(""))
    tell: Callable[[str], Any] = lambda _what: []
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer | None = None
    tails: Tails = field(default_factory=Tails)
    """What the jobs' processes printed last."""
    accountant: Accountant = account_apart
    """What private jobs spend."""
    record: Callable[[Entry], None] = lambda _entry: None
    """Told of decisions, a share of which `config` asks for."""
    keys: KeyRing | None = None
    """The private keys that sign artifacts; None: they follow from the identity, as simulations need it."""


def build(world: World, setup: CloudSetup) -> Cloud:
    """A cloud, for the field or for a simulation."""
    return Cloud(world, setup)


class Cloud:
    """The one cloud of a tree. Implements msrt.hop.Handler."""

    def __init__(self, world: World, setup: CloudSetup) -> None:
        self.world, self.setup, self.identity, self.metrics = world, setup, setup.identity, setup.metrics
        self.ready = asyncio.Event()
        self.address = msgspec.structs.replace(
            setup.address, node=setup.identity.node, link_key=setup.identity.link_public
        )
        self.artifacts = ArtifactStore(world)
        self.fleet = Fleet()
        self.served = Served()
        self._began = world.now()
        self._closing = asyncio.Event()
        self.writer: Writer
        self.downlink: Downlink

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled or `close`d. Raises PortInUse, Corrupt, DiskFull."""
        await self._open()
        async with asyncio.TaskGroup() as group:
            parts = (
                self.rollouts, self.updates, self.serving, Triggers(self.training), self.signing, self.addresses,
                self.orphans,
            )  # fmt: skip
            working = [group.create_task(part.run()) for part in parts]
            await self.training.resume()
            self.ready.set()
            try:
                await self._closing.wait()
            finally:
                for task in working:
                    task.cancel()
                await self.training.close()
                await self.downlink.close("the cloud stops")
                await self.writer.close()

    def close(self) -> None:
        """Stop; `run` returns."""
        self._closing.set()

    def check_open(self) -> None:
        """Raises Unavailable while the journal is not read: what listens, listens before."""
        if not self.ready.is_set():
            raise errors.Unavailable("the cloud is starting")

    async def _open(self) -> None:
        world, setup, config = self.world, self.setup, self.setup.config
        boots = await next_boot(world, world.disk.store("node"))
        sign = self.identity.signer(Purpose.JOURNAL)
        log_id = world.random.getrandbits(64).to_bytes(8, "big").hex()
        store = world.disk.store("journal")
        opened = await world.offload(lambda: Log(store, sign, log_id=log_id, epoch=int(world.wall())))
        self.writer = Writer(opened, world.offload, compact_every=config.journal_snapshot_entries)
        self.events = Events(world, world.disk.store("events"), config.event_bytes)
        self.addresses = Addresses(world)
        self.fleet.remembered(self.addresses.known(self.writer.state))
        await self._sign()
        self.registry = Registry(world, self.identity, self.writer, self.artifacts, self.signing, setup.prepare)
        pace = Pace(
            config.rollout_window_s, config.rollout_ready_s, config.rollout_failures, config.rollout_evidence_s,
            config.rollout_undecided,
        )  # fmt: skip
        bounds = Bounds(
            config.rollout_failures, config.rollout_slow, config.rollout_disagreement,
            Limits(config.rollout_alpha, config.rollout_beta),
        )  # fmt: skip
        self.rollouts = Rollouts(world, self.writer, self.fleet, pace, self.served, bounds)
        self.images = Images(world, self.identity, self.writer, self.artifacts, self.signing, config.image_bytes)
        self.updates = Updates(world, self.writer, self.fleet, config.updates_kept)
        means = Means(
            world, self.identity, self.writer, self.artifacts, self.fleet, self._edges, self.signing, self.registry,
            self.rollouts,
            setup.workshop, self.events.tally, setup.accountant, config.rejoin_leases * config.lease_s,
        )  # fmt: skip
        self.training = Training(means)
        self.orphans = Orphans(world, self.artifacts, self._named, config.orphan_grace_s)
        self.feed = Feed(self.writer)
        self.serving = Serving(self)
        self.control = Control(self)
        gate = CloudGate(world, self.identity, self.writer, self._parents, self.signing.first_root)
        self._gate = gate
        boot = world.random.getrandbits(63)
        self.downlink = Downlink(
            world,
            self.identity.node,
            boot,
            self,
            gate,
            lease_s=config.lease_s,
            epoch=boots << 24,
            children=config.workers,
        )
        self.downlink.sessions = config.client_sessions
        for url, credentials in setup.listen:
            link = world.links.listen(url, credentials, lambda _principal: True)
            await self.downlink.listen(link)
            self.address = msgspec.structs.replace(self.address, zmq=link.address)

    async def _sign(self) -> None:
        """The repository, with all in it that the journal names; and this cloud as a floor that checks it."""
        world, config = self.world, self.setup.config
        periods = Periods(config.trust_timestamp_s, config.trust_targets_s, config.trust_root_s)
        ring = self.setup.keys or SeededRing(self.identity.sign(b"keys", Purpose.ROOT))
        self.signing = Repository(world, self.identity, self.artifacts, ring, periods)
        state = self.writer.state
        await self.signing.open(lambda: signed_for(state, self.artifacts.size))
        self.trust = Floor(world, self.artifacts, self.identity.public, ask=self._newest, fetch=_all_is_here)

    async def _named(self) -> set[str]:
        """All that must stay on this disk."""
        kept = await self.training.named()
        return kept | self.signing.named() | set(named(self.writer.state))

    async def _newest(self, params: dict[str, object]) -> object:
        return self.signing.answer(params)

    def _edges(self) -> list[Peer]:
        return [peer for peer in self.downlink.peers.values() if peer.role == Role.EDGE]

    def _parents(self, certificate: Certificate) -> tuple[Parent, ...]:
        return self.fleet.parents(certificate.region) if certificate.role == Role.DEVICE else (self.address,)

    def summary(self) -> dict[str, Any]:
        """The cloud's own line in `msrt status`."""
        return {
            "name": "cloud", "node": self.identity.node, "journal": self.writer.log.offset,
            "epoch": self.writer.log.epoch, "up_s": self.world.now() - self._began, "events": self.events.last,
            "events_dropped": self.events.dropped, "artifact_bytes": self.artifacts.held_bytes,
            "address": self.address.zmq, "http": self.address.http, "trust": self.signing.summary(),
        }  # fmt: skip

    # --- the handler of all peers ----------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        if peer.role != Role.EDGE:
            return
        log.info("cloud.edge_joined", edge=peer.name, node=peer.node)
        self.metrics.leases.labels("edge").inc()
        self.addresses.keep(self.fleet.joined(peer, self.world.now()))
        self.training.edge_joined(peer)

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        self.serving.left(peer, final=final)
        if peer.role != Role.EDGE:
            return
        edge = self.fleet.edges.get(peer.node)
        if edge is not None and edge.alive:
            self.metrics.leases.labels("edge").dec()
            log.warning("cloud.edge_lost", edge=peer.name, error=errors.words_of(error))
        self.fleet.left(peer.node, self.world.now())
        if edge is not None:
            self.training.devices_changed(edge.devices.keys())
        if final:
            self.feed.stop(peer.node)

    def edge_removed(self, node: str) -> None:
        """It is of the tree no more."""
        self.fleet.removed(node)
        self.addresses.forget(node)

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        if self.serving.message(peer, message, frames):
            return
        if peer.role != Role.EDGE:
            log.warning("cloud.unexpected_message", peer=peer.name, type=type(message).__name__)
            return
        match message:
            case Follow():
                self.feed.follow(peer, message)
            case FleetReport():
                self.training.devices_changed(self.fleet.report(peer.node, message))
            case ServingReport():
                self.served.report(peer.node, message, self.world.now())
            case TrainProgress():
                self.training.progress(peer, message)
            case Load():
                self.fleet.load(peer.node, message.values)
            case _:
                log.warning("cloud.unexpected_message", peer=peer.name, type=type(message).__name__)

    async def called(self, peer: Peer, method: str, params: dict[str, object]) -> object:
        if peer.role == Role.EDGE:
            check_call(peer.role, method)
        if method == "artifact.get":
            return await serve(self.artifacts, peer, params)
        if method == GET and peer.role == Role.EDGE:
            return self.signing.answer(params)
        if method == "enrol" and peer.role == Role.EDGE:
            given = {key: value for key, value in params.items() if key != "_call"}
            enrolled = await self._gate.enrol(self._gate.as_call(given), b"")
            return msgspec.to_builtins(enrolled, builtin_types=(bytes,))
        return await self.control.called(peer, method, params)

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        if opened.kind == "update" and peer.role == Role.EDGE:
            return self.training.stream(peer, opened)
        if opened.kind == "shard" and peer.role == Role.EDGE:
            return self.training.shard_stream(peer, opened)
        if opened.kind == "artifact" and peer.role == Role.OPERATOR:
            if opened.size > UPLOAD_LIMIT:
                raise errors.FrameTooLarge(opened.size, UPLOAD_LIMIT, "upload")
            return receive(self.artifacts, opened)
        raise errors.Forbidden(f"a {peer.role} may not send a stream {opened.kind}")

    async def stored(self, peer: Peer, messages: list[Message]) -> None:
        if peer.role != Role.EDGE:
            raise errors.Forbidden(f"a {peer.role} posts no events")
        await self.events.stored(messages)


async def _all_is_here(digest: str, _offset: int, _sink: object) -> object:
    """The cloud has no parent to fetch from."""
    raise errors.NotFound(f"artifact {digest[:12]} is not here")
