"""An edge master: an uplink to the cloud, a downlink to devices and clients, and the parts between.

start: open what is on disk and listen. run: follow the journal, place models, route requests, collect events and
updates. drain: say goodbye to both sides. With the cloud away everything but enrolment and rollouts goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.transfer import fetch_from
from msrt.buffers import Buffer
from msrt.dispatch import Config, Dispatcher
from msrt.dispatch.decisions import Entry
from msrt.hop import Downlink, Peer, Uplink
from msrt.inference.local import LocalEngine
from msrt.joining import Membership, endpoint_for, hello_of, next_boot
from msrt.links.link import Credentials, Link
from msrt.protocol import wire
from msrt.protocol.messages import Parent
from msrt.serving.requests import Requests
from msrt.serving.tally import Tally
from msrt.settings import EdgeConfig
from msrt.telemetry.metrics import Metrics
from msrt.telemetry.spans import Tracer
from msrt.telemetry.tailing import log_answer
from msrt.trust.certificate import check_certificate
from msrt.trust.identity import Identity
from msrt.trust.tuf.floor import Floor
from msrt.trust.tuf.parent import ask_parent
from msrt.world.world import World
from msrt_edge.accounts import Accounts
from msrt_edge.events import Events
from msrt_edge.fleet import Fleet
from msrt_edge.follow import Follower
from msrt_edge.gate import EdgeGate
from msrt_edge.manifests import Manifests
from msrt_edge.meeting import Meetings
from msrt_edge.offering import Offering
from msrt_edge.parameters import ParameterServers
from msrt_edge.placement import wanted_digests
from msrt_edge.served import Served
from msrt_edge.service import Service
from msrt_edge.sides import Above, Below
from msrt_edge.telling import Part, report
from msrt_edge.training import RegionTraining

__all__ = ["Edge", "EdgeSetup", "build"]

log = structlog.get_logger()
REPORT_S: Final = 2.0
REPORT_GAP_S: Final = 0.1
EDGES_S: Final = 10.0
WITHIN_S: Final = {"personal": 150.0}
"""How long a device may take for what it is asked, where that is more than a look: it starts a job's process."""
NEIGHBOURS: Final = "neighbours"


@dataclass(frozen=True)
class EdgeSetup:
    """What an edge is made of, beside its world."""

    identity: Identity
    membership: Membership
    listen: Sequence[tuple[str, Credentials]]
    """URL and credentials of each listener."""
    config: EdgeConfig = field(default_factory=EdgeConfig)
    address: Parent = field(default_factory=lambda: Parent(""))
    """What is known of its own addresses before it listens (MQTT broker, HTTP)."""
    tell: Callable[[str], Any] = lambda _what: []
    accounts: Callable[[dict[str, str]], None] = lambda _accounts: None
    """Told of the MQTT accounts in force."""
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer | None = None
    record: Callable[[Entry], None] = lambda _entry: None
    """Told of decisions, a share of which `config` asks for."""


def build(world: World, setup: EdgeSetup) -> Edge:
    """An edge, for the field or for a simulation."""
    return Edge(world, setup)


class Edge:
    """One edge."""

    def __init__(self, world: World, setup: EdgeSetup) -> None:
        self.world, self.setup, self.metrics = world, setup, setup.metrics
        self.ready = asyncio.Event()
        config = setup.config
        self.membership = setup.membership
        cloud_identity = setup.membership.cloud_identity
        self.certificate = check_certificate(setup.membership.certificate, cloud_identity)
        self.node, self.region = self.certificate.node, self.certificate.region
        self.address = msgspec.structs.replace(
            setup.address, node=self.node, region=self.region, link_key=setup.identity.link_public
        )
        self._store = world.disk.store("node")
        self._neighbours = self._load_neighbours()
        self._accounts = Accounts()
        self.follower = Follower(world, cloud_identity, self.region, self._journal_changed)
        self.artifacts = ArtifactStore(world, bound_bytes=config.cache_bytes)
        self.hello = hello_of(world, setup.identity, setup.membership)
        self.endpoint = endpoint_for(setup.identity, setup.membership)
        self.uplink = Uplink(world, self.hello, setup.membership.parents[:1], self.endpoint, Above(self))
        self.fetch_blob = fetch_from(self.uplink)
        self.trust = Floor(
            world, self.artifacts, cloud_identity, ask=ask_parent(self.uplink), fetch=self.fetch_blob,
            first_root=self.certificate.root,
        )  # fmt: skip
        offering = Offering(lambda: self.follower.state)
        self.manifests = Manifests(lambda: self.follower.state, self.trust.vouch, offering, self._learned)
        self.trust.renewed = self.manifests.look
        self.fleet = Fleet(self.region, lambda: self.follower.state, self.manifests.known, world.now, offering)
        dispatch = Config(
            window=config.batch_window, max_batch_rows=config.batch_rows, max_items=config.queue_items,
            max_bytes=config.queue_bytes, max_age_s=config.queue_age_s, max_deadline_s=config.request_deadline_max_s,
            max_attempts=config.request_attempts, stall_floor_s=config.stall_s, record_share=config.record_share,
        )  # fmt: skip
        self.dispatcher = Dispatcher(dispatch, world.random)
        self.tally = Tally()
        self.requests = Requests(world, self.dispatcher, self.fleet.validate, self.tally)
        self.requests.record = setup.record
        self.events = Events(
            world, bound_bytes=config.event_bytes, max_age_s=config.event_age_s, webhook=bool(config.webhook_url)
        )
        self.engine = LocalEngine(
            world, self.node, self.certificate.name, fetch=self.fetch,
            vouch=self.trust.vouch,
            heard=lambda message, frames: self.requests.own_answer(self.node, message, frames),
            changed=self._engine_changed,
        )  # fmt: skip
        self.fleet.own = self.engine
        self._engine_works = False
        self.parameters = ParameterServers(self)
        self.meetings = Meetings(lambda: self.follower.state)
        self.service = Service(self)
        me = f"{self.node}/{self.hello.boot}"
        self.training = RegionTraining(
            world, me, self.device_peers, self.artifacts, self.fetch_blob, config.update_streams, cloud_identity
        )
        self.downlink: Downlink | None = None
        self.served = Served(self)
        self._prefetch_due = asyncio.Event()
        self.cloud_left_at = world.now()

    def device_peers(self) -> dict[str, Peer]:
        """Live devices by node id."""
        return {node: seen.peer for node, seen in self.fleet.devices.items() if seen.alive}

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled or `close`d. Raises PortInUse, BrokerFailed."""
        await self._listen()
        self.service.others_changed()
        self._journal_changed()
        self.ready.set()
        try:
            async with asyncio.TaskGroup() as group:
                side = [
                    group.create_task(work)
                    for work in (
                        self.follower.run(), self.training.run(), self.events.tidy(), self._report(), self._ask_edges(),
                        self._prefetch(), self.engine.run(), self.parameters.run(), self.trust.run(),
                        self.manifests.run(),
                    )
                ]  # fmt: skip
                try:
                    await self.uplink.run()
                finally:
                    for task in side:
                        task.cancel()
        finally:
            await self.service.close()
            if self.downlink is not None:
                await self.downlink.close("the edge stops")

    async def _listen(self) -> None:
        boots = await next_boot(self.world, self._store)
        gate = EdgeGate(
            self.membership.cloud_identity,
            lambda: self.follower.state,
            self.uplink,
            lambda: self.known_edges,
        )
        self.downlink = Downlink(
            self.world, self.node, self.hello.boot, Below(self), gate,
            lease_s=self.setup.config.lease_s, epoch=boots << 24, children=self.setup.config.workers,
        )  # fmt: skip
        self.downlink.sessions = self.setup.config.client_sessions
        for url, credentials in self.setup.listen:
            link = self.world.links.listen(url, credentials, lambda _principal: True)
            await self.downlink.listen(link)
            kind = "mqtt" if link.address.startswith("mqtt") else "zmq"
            self.address = msgspec.structs.replace(self.address, **{kind: self._advertised(link.address)})
        self.uplink.say_address(self.address)

    def _advertised(self, url: str) -> str:
        """As others are told it: before the first greeting, so that no invite ever names another address."""
        scheme, _, rest = url.partition("://")
        host = self.setup.config.advertise
        return f"{scheme}://{host}:{rest.rpartition(':')[2]}" if host else url

    @property
    def links(self) -> list[Link]:
        """Every open link, down and up."""
        down = self.downlink.links if self.downlink is not None else []
        up = self.uplink.peer.link if self.uplink.peer is not None else None
        return [*down, *([up] if up is not None else [])]

    @property
    def refused(self) -> int:
        """Packets from below that were no messages, or not allowed."""
        return self.downlink.refused if self.downlink is not None else 0

    @property
    def known_edges(self) -> tuple[Parent, ...]:
        """This edge, then the others it knows."""
        return (self.address, *self._neighbours)

    @property
    def cloud_away_s(self) -> float:
        """Seconds without the cloud, 0 while it is here."""
        return 0.0 if self.uplink.peer is not None else self.world.now() - self.cloud_left_at

    def close(self) -> None:
        """Say goodbye; `run` returns."""
        self.uplink.close()

    async def fetch(self, digest: str) -> Buffer:
        """An artifact's bytes: from this disk, else from the cloud."""
        return await self.artifacts.get(digest, self.fetch_blob)

    # --- desired state ---------------------------------------------------------------------------------------------

    def _journal_changed(self) -> None:
        state = self.follower.state
        self.manifests.look()
        self._learned()
        self.setup.accounts(self._accounts.changed(state.accounts, self.world.now()))
        if self.downlink is not None:
            for peer in list(self.downlink.peers.values()):
                serial = peer.certificate.serial if peer.certificate else 0
                try:
                    state.check_standing(peer.node, serial, peer.name)
                except errors.Revoked as error:
                    self.downlink.expel(peer.node, error)
        self.parameters.journal_changed()

    def _learned(self) -> None:
        """More model versions are known, or something else is said of those that are."""
        self.fleet.journal_changed()
        self.refresh_tables()
        self._prefetch_due.set()

    async def _prefetch(self) -> None:
        """Have what devices will ask for before they do."""
        while True:
            await self._prefetch_due.wait()
            self._prefetch_due.clear()
            wanted = dict(wanted_digests(self.follower.state, self.fleet.manifests, self.region)) | self.fleet.images()
            self.artifacts.pin(wanted)
            self.artifacts.expect(wanted)
            for digest, size in wanted.items():
                try:
                    await self.artifacts.ensure(digest, self.fetch_blob, size)
                except errors.MsrtError as error:
                    log.info("artifact.not_prefetched", digest=digest[:12], error=errors.words_of(error))
                    await asyncio.sleep(REPORT_S)
                    self._prefetch_due.set()
                    break

    def images_wanted(self) -> None:
        """A device said what it runs: perhaps others of its class are here already, perhaps none were."""
        if self.fleet.images().keys() - self.artifacts.room.sizes.keys():
            self._prefetch_due.set()

    def refresh_tables(self) -> None:
        for table in self.fleet.tables():
            self.requests.versions(table)
        self.service.refresh()

    def _engine_changed(self) -> None:
        """What this edge itself has loaded: it is one more worker from its first model on."""
        if not self._engine_works:
            self._engine_works = True
            self.requests.worker_up(self.engine)
        self.requests.own_models(self.node, self.engine.models)
        self.fleet.own_changed()
        self.refresh_tables()

    def _load_neighbours(self) -> tuple[Parent, ...]:
        found = dict(self._store.scan(NEIGHBOURS)).get(NEIGHBOURS)
        return wire.unpack(found, tuple[Parent, ...]) if found else ()

    async def _ask_edges(self) -> None:
        """Where our devices may go when we are gone."""
        while True:
            with contextlib.suppress(errors.PeerError):  # the cloud is away: what it named before holds
                answer = await self.uplink.call("edges", {}, EDGES_S)
                edges = msgspec.convert(answer, tuple[Parent, ...], builtin_types=(bytes,))
                others = tuple(edge for edge in edges if edge.node != self.node)
                if others != self._neighbours:
                    await self._keep_neighbours(others)
            await asyncio.sleep(EDGES_S if self._neighbours else 1.0)

    async def _keep_neighbours(self, others: tuple[Parent, ...]) -> None:
        self._neighbours = others
        self.service.others_changed()
        if self.downlink is not None:
            self.downlink.offer_parents()
        self._store.put(NEIGHBOURS, wire.pack(others))
        try:
            await self.world.offload(self._store.commit)
        except errors.DiskFull as error:
            log.warning("edge.neighbours_not_on_disk", error=error.text)

    async def _report(self) -> None:
        """The cloud hears of changes soon, and of everybody in turn: of all of them at once when it comes."""
        fleet, due = self.fleet, 0.0
        while True:
            if fleet.telling.whole or self.uplink.peer is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_S):
                        await fleet.changed.wait()
            fleet.changed.clear()
            fleet.forget()
            accounts = self._accounts.expired(self.world.now())
            if accounts is not None:
                self.setup.accounts(accounts)
            peer = self.uplink.peer
            if peer is not None and peer.live:
                if fleet.telling.whole:
                    self._tell(peer, fleet.telling.of_changes())
                if not fleet.telling.whole or self.world.now() >= due:
                    due = self.world.now() + REPORT_S
                    self._tell(peer, fleet.telling.of_sweep(fleet.everyone))
                    self.served.tell(peer)
                if fleet.telling.changed:
                    fleet.changed.set()
            await asyncio.sleep(REPORT_GAP_S)

    def _tell(self, peer: Peer, part: Part | None) -> None:
        if part is None:
            return
        try:
            peer.send(report(part, self.follower.replica.durable, self.values()))
        except (errors.Disconnected, errors.Overloaded, errors.FrameTooLarge) as error:
            log.info("edge.report_held_back", devices=len(part.devices), error=error.text)  # said again, next time
        else:
            self.fleet.telling.sent(part)

    def values(self) -> dict[str, float]:
        """Numbers for `status`."""
        counters = self.dispatcher.counters
        return {
            "queue": float(self.dispatcher.queued), "open": float(self.dispatcher.open_requests),
            "replied": float(counters.replied), "rejected": float(counters.rejected),
            "retried": float(counters.retried), "events_waiting": float(self.events.waiting),
            "events_dropped": float(self.events.dropped), "artifact_bytes": float(self.artifacts.held_bytes),
            "artifacts_corrupt": float(self.artifacts.corrupt), **self.service.values(), **self.trust.values(),
        }  # fmt: skip

    async def below(self, node: str, method: str, params: dict[str, object]) -> object:
        """Ask one of our devices, or ourselves."""
        if node == self.node:
            if method == "logs":
                return log_answer(self.setup.tell, params)
            if method != "diagnose":
                raise errors.NotFound("an edge trains nothing: it runs no job's process, and has no model of its own")
            return {**self.values(), **dict(self.setup.tell("diagnose") or {})}
        peer = self.device_peers().get(node)
        if peer is None:
            raise errors.Unavailable("the device is not here")
        return await peer.call(method, {**params, "wall": self.world.wall()}, WITHIN_S.get(method, 10.0))
