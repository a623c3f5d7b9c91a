"""A device worker: one uplink to its edge, and the parts that hang on it.

start: load what it was, from its own disk. run: greet its edges, serve, watch sensors, train. drain: say goodbye. stop:
everything durable is on disk already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.transfer import fetch_from
from msrt.buffers import Buffer
from msrt.hop import Peer, StreamSink, Uplink
from msrt.hop.durable import DurableSender
from msrt.hop.homing import Home
from msrt.hop.parcel import PULL
from msrt.inference.budget import Budget
from msrt.inference.keeper import Keeper
from msrt.inference.model import Loader
from msrt.inference.sequences import Sequences
from msrt.inference.slots import Slots
from msrt.joining import Membership, endpoint_for, hello_of
from msrt.journal.outbox import Outbox
from msrt.protocol import wire
from msrt.protocol.messages import (
    Assign,
    DeviceReport,
    Event,
    Infer,
    InferCancel,
    Load,
    Message,
    Parent,
    Pulled,
    RoundClosed,
    RoundOpen,
    SecureOut,
    SecureRoster,
    SecureShares,
    SecureUnmask,
    ShardsOpen,
    StreamOpen,
    UpdateOffers,
)
from msrt.settings import DeviceConfig
from msrt.telemetry.tailing import log_answer
from msrt.training.tails import Tails
from msrt.training.task import Node as TaskNode
from msrt.trust.certificate import check_certificate
from msrt.trust.identity import Identity, Purpose
from msrt.trust.tuf.floor import Floor
from msrt.trust.tuf.parent import ask_parent
from msrt.world.world import World
from msrt_device.jobs import Jobs
from msrt_device.requests import INLINE_US, Requests
from msrt_device.sources.watch import Watch
from msrt_device.telling import diagnosis, sources, values
from msrt_device.updater.composed import updater_of
from msrt_device.updater.slots import Slots as UpdateSlots
from msrt_device.wiping import ordered

if TYPE_CHECKING:
    from msrt.learning.secure_aggregation import Me
    from msrt.training.trainer import Trainer

__all__ = ["Device", "DeviceSetup", "build"]

log = structlog.get_logger()
LOAD_S: Final = 2.0
YIELD_S: Final = 0.5
KEEP: Final = "assignment"
ASSIGNMENT_LIMIT: Final = 64 << 20


@dataclass(frozen=True)
class DeviceSetup:
    """What a device is made of, beside its world."""

    identity: Identity
    membership: Membership
    config: DeviceConfig = field(default_factory=DeviceConfig)
    trainer: Callable[[str], Trainer] | None = None
    """Job name to a trainer; None: takes no part in training."""
    device_class: str = ""
    serial: str = ""
    """Of the board."""
    model_memory: int = 0
    """Bytes for loaded models where the config does not say; 0: no bound."""
    tell: Callable[[str], Any] = lambda _what: []
    """Answers `logs` and `diagnose` with what only the process knows."""
    tails: Tails = field(default_factory=Tails)
    """What the jobs' processes printed last."""
    engine: Loader | None = None
    """Runs the models; None: onnxruntime in this process."""
    budget: Budget | None = None
    """Which models it holds at a time; None: as many as fit the memory."""
    slots: Mapping[str, UpdateSlots] = field(default_factory=dict)
    """What can be updated over the air, by kind (see msrt.artifacts.images)."""
    agent: str = ""
    """Version of this program."""
    tidy: Callable[[], None] | None = None
    """Blocking: gives memory back that models left."""
    prepare: Callable[[], None] = lambda: None
    """Blocking: imports what a trainer takes, before the first is made."""
    clear: Callable[[str], None] = lambda _job: None
    """Blocking: removes what is left of a job that is over."""


def build(world: World, setup: DeviceSetup) -> Device:
    """A device, for the field or for a simulation."""
    return Device(world, setup)


def _onnxruntime(config: DeviceConfig) -> Loader:
    from msrt.inference.engine import Engine  # noqa: PLC0415 - 20 MiB: not where another engine runs the models

    return Engine(threads=config.engine_threads)


class Device:
    """One device. Implements msrt.hop.Handler."""

    def __init__(self, world: World, setup: DeviceSetup) -> None:
        self.world, self.setup = world, setup
        self.ready = asyncio.Event()
        self.identity, config = setup.identity, setup.config
        self.certificate = check_certificate(setup.membership.certificate, setup.membership.cloud_identity)
        self.membership = setup.membership
        self._store = world.disk.store("node")
        self._cloud = setup.membership.cloud_identity
        hello = hello_of(
            world, setup.identity, setup.membership, device_class=setup.device_class, agent=setup.agent,
            serial=setup.serial,
        )  # fmt: skip
        endpoint = endpoint_for(setup.identity, setup.membership, config.link)
        self.uplink = Uplink(
            world, hello, setup.membership.parents, endpoint, self, pause_max_s=config.reconnect_max_s,
            home=Home(self.certificate.region, config.home_s, self._quiet),
        )  # fmt: skip
        self.uplink.on_parents = self._new_parents
        self.uplink.on_sent_away = self._sent_away
        self.decommissioned = False
        """The cloud has ordered that everything here is wiped."""
        self.artifacts = ArtifactStore(world, bound_bytes=config.cache_bytes)
        self._fetch_blob = fetch_from(self.uplink)
        self.trust = Floor(
            world, self.artifacts, self._cloud, ask=ask_parent(self.uplink), fetch=self._fetch_blob,
            first_root=self.certificate.root,
        )  # fmt: skip
        self.slots = Slots()
        self.budget = setup.budget or Budget(config.model_memory or setup.model_memory)
        self.keeper = Keeper(
            world, self.slots, setup.engine or _onnxruntime(config), fetch=self.fetch,
            vouch=self.trust.vouch,
            changed=self._changed, budget=self.budget, tidy=setup.tidy,
        )  # fmt: skip
        self.sequences = Sequences(
            config.sequences, config.sequence_bytes, config.sequence_idle_s, config.sequence_drain_s
        )
        self.requests = Requests(
            world, self.slots, self.certificate.name, config.engine_queue, self.sequences, self.keeper.wanted,
            inline_us=INLINE_US if setup.engine is None else 0,
        )  # fmt: skip
        self.events = DurableSender(
            world,
            Outbox(world.disk.store("events"), "events", bound_bytes=config.event_bytes),
            lambda d: wire.unpack(d, Event),
        )
        who = (self.certificate.node, self.certificate.name, self.certificate.region)
        self.watches = [
            Watch(world, world.disk.store("events"), source, self.slots, self.events, who, self.keeper.wanted)
            for source in config.source
        ]
        self.jobs = self._jobs(setup.trainer) if setup.trainer is not None and config.train else None
        self._report_due = asyncio.Event()
        self.updater = updater_of(self, setup.slots)
        self._parts = Assign(0, ())
        """What came of an assignment whose rest follows."""

    def _jobs(self, trainer: Callable[[str], Trainer]) -> Jobs:
        return Jobs(
            self.world, self._who, self.trust.vouch, trainer=trainer, prepare=self.setup.prepare,
            clear=self.setup.clear, artifacts=self.artifacts, fetch=self._fetch_blob,
        )  # fmt: skip

    def _who(self) -> tuple[TaskNode, Me]:
        from msrt.learning.secure_aggregation import Me  # noqa: PLC0415 - loaded with the first job, see `jobs`

        labels = {**self.certificate.labels, **self.setup.config.labels, "name": self.certificate.name}
        node = TaskNode(self.certificate.node, labels, data=self.setup.config.data)
        sign, random = self.identity.signer(Purpose.SECURE), self.world.random.randbytes
        return node, Me(node.id, self.membership.certificate, sign, self._cloud, random)

    # --- life ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled or `close`d; with or without an edge."""
        self._recall()
        if self.jobs is not None:
            await self.jobs.recall()
        async with asyncio.TaskGroup() as group:
            side = [
                group.create_task(work)
                for work in (
                    self.trust.run(), self.keeper.run(), self._report(), self._load(), self._yield_to_serving(),
                    self.updater.run(),
                    *(watch.run() for watch in self.watches),
                )
            ]  # fmt: skip
            try:
                await self.uplink.run()
            finally:
                for task in side:
                    task.cancel()
                if self.jobs is not None:
                    await self.jobs.stop()

    def close(self) -> None:
        """Say goodbye; `run` returns."""
        self.uplink.close()

    def _recall(self) -> None:
        """The assignment on disk is in force until an edge says otherwise: a reboot brings the same models back."""
        found = dict(self._store.scan(KEEP)).get(KEEP)
        if found:
            assign = wire.unpack(found, Assign, limit=ASSIGNMENT_LIMIT)
            self.keeper.assign(assign.generation, assign.models)

    async def fetch(self, digest: str) -> Buffer:
        """An artifact's bytes: from this disk, else through the edge."""
        return await self.artifacts.get(digest, self._fetch_blob)

    # --- what the edge says ------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        log.info("device.joined", edge=peer.node)
        self.trust.attach()
        self._send_report(peer)
        self.events.attach(peer)
        self.updater.welcomed()
        if self.jobs is not None:
            self.jobs.attach(peer)
        self.ready.set()

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        if not final:
            return
        log.info("device.edge_away", edge=peer.node, error=errors.words_of(error))
        self.requests.forget()
        self._parts = Assign(0, ())
        self.events.detach(peer)
        if self.jobs is not None:
            self.jobs.detach()

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        match message:
            case Infer():
                self.requests.received(peer, message, frames)
            case InferCancel():
                self.requests.cancelled(message.ids)
            case Assign():
                self._assigned(message)
            case UpdateOffers():
                self.updater.offered(message)
            case (
                RoundOpen() | RoundClosed() | SecureRoster() | SecureShares() | SecureUnmask() | SecureOut()
                | ShardsOpen() | Pulled()
            ):  # fmt: skip
                if self.jobs is not None:  # a device that does not train hears of rounds all the same
                    self.jobs.said(peer, message, frames)
            case _:
                log.warning("device.unexpected_message", type=type(message).__name__)

    def _assigned(self, message: Assign) -> None:
        before = self._parts.models if self._parts.generation == message.generation else ()
        message = msgspec.structs.replace(message, models=before + message.models)
        if message.more:
            self._parts = message
            return
        self._parts = Assign(0, ())
        self.keeper.assign(message.generation, message.models)
        self._store.put(KEEP, wire.pack(message))
        task = asyncio.get_running_loop().create_task(self._commit())
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _commit(self) -> None:
        try:
            await self.world.offload(self._store.commit)
        except errors.DiskFull as error:
            log.warning("device.assignment_not_on_disk", error=error.text)

    def _new_parents(self, parents: list[Parent]) -> None:
        self.membership = self.membership.with_parents(parents)
        task = asyncio.get_running_loop().create_task(self.membership.save(self.world, self._store))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _quiet(self) -> bool:
        """Would nothing be cut off if this edge were left now? What it is asked singly is given to others."""
        return not len(self.sequences) and not (self.jobs is not None and self.jobs.working)

    def _sent_away(self, error: errors.MsrtError) -> None:
        if ordered(error, self._cloud, self.certificate.node):
            self.decommissioned = True
            self.close()

    async def called(self, _peer: Peer, method: str, params: dict[str, object]) -> object:
        if method == "logs":
            return log_answer(self.setup.tell, params)
        if method == "diagnose":
            return diagnosis(self, params)
        if method == "job":
            return self.setup.tails.told(params)
        if method in ("personal", "personal.part"):
            if self.jobs is None:
                raise errors.NotFound("this device does not train, so it has no model of its own")
            return await self.jobs.asked(method, params)
        raise errors.NotFound(f"a device has no method {method!r}")

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        workers = self.jobs.workers if self.jobs is not None else None
        if opened.kind == PULL and workers is not None:
            return workers.stream(peer, opened)
        raise errors.Forbidden(f"a device takes no stream {opened.kind}")

    async def stored(self, _peer: Peer, _messages: list[Message]) -> None:
        raise errors.Forbidden("a device keeps nothing for others")

    # --- what the edge hears -------------------------------------------------------------------------------------

    def report(self) -> None:
        """The edge should hear how this device is."""
        self._report_due.set()

    def _changed(self) -> None:
        manifests = [s.manifest for s in self.slots.held() if s.manifest is not None and not s.replaced]
        self.artifacts.pin(variant.digest for manifest in manifests for variant in manifest.variants.values())
        self.requests.models_changed()
        self._report_due.set()

    async def _report(self) -> None:
        while True:
            await self._report_due.wait()
            self._report_due.clear()
            peer = self.uplink.peer
            if peer is not None:
                self._send_report(peer)
            await asyncio.sleep(0.02)

    def _send_report(self, peer: Peer) -> None:
        report = DeviceReport(
            self.slots.generation, self.slots.reports(), dict(self.setup.config.labels), sources(self),
            self.updater.states(),
        )  # fmt: skip
        with contextlib.suppress(errors.Disconnected, errors.Overloaded):
            peer.send(report)

    async def _load(self) -> None:
        """Numbers every few seconds, failures of models and versions that left among them."""
        known = (-1, -1)
        while True:
            await asyncio.sleep(LOAD_S)
            self.slots.count()
            if self.sequences.drain(self.slots.leaving, self.world.now()):
                self.keeper.settle()
            peer = self.uplink.peer
            if peer is None:
                continue
            with contextlib.suppress(errors.Disconnected, errors.Overloaded):
                peer.send(Load(values(self)))
            reports = self.slots.reports()
            now = (sum(report.failures for report in reports), len(reports))
            if now != known:
                known = now
                self._report_due.set()

    async def _yield_to_serving(self) -> None:
        """Serving comes first: training stands still for a moment after a call that took too long."""
        limit_us = self.setup.config.train_pause_ms * 1000
        while self.jobs is not None and limit_us:
            await asyncio.sleep(YIELD_S)
            self.jobs.pause(paused=self.requests.take_slowest_us() > limit_us)
