"""This edge's devices: who is here, what they hold, what they should hold, and what the cloud hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.dispatch.events import VersionTable
from msrt.hop import Peer
from msrt.inference.bundle import Manifest, signature_of
from msrt.inference.signature import Signature
from msrt.journal.state import State
from msrt.protocol import wire
from msrt.protocol.messages import (
    Assign,
    DeviceRecord,
    DeviceReport,
    ModelState,
    Offer,
    Placement,
    TensorSpec,
    UpdateState,
)
from msrt.serving.backend import ModelInfo
from msrt_edge.offering import Offering
from msrt_edge.placement import Device, Measured, place, version_table
from msrt_edge.telling import Telling
from msrt_edge.turns import Turns

__all__ = ["DeviceSeen", "Fleet"]

log = structlog.get_logger()
FORGET_S: Final = 3600.0
"""A device that is away so long is no longer reported."""
OWN_CLASS: Final = "master"
"""Device class of a master's own engine: it measures both variants for itself."""


@dataclass
class DeviceSeen:
    """One device of this edge."""

    peer: Peer
    name: str
    alive: bool = True
    since: float = 0.0
    models: tuple[ModelState, ...] = ()
    own_labels: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    assigned: tuple[Placement, ...] | None = None
    updates: tuple[UpdateState, ...] = ()
    offered: tuple[Offer, ...] | None = None


class Own(Protocol):
    """This node's own engine, where it runs models itself."""

    @property
    def node(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def models(self) -> tuple[ModelState, ...]: ...

    def assign(self, placements: tuple[Placement, ...]) -> None: ...


class Fleet:
    """All devices of this edge by node id. Manifests are checked once, before they come here."""

    def __init__(
        self,
        region: str,
        state: Callable[[], State],
        manifests: Mapping[tuple[str, int], Manifest],
        now: Callable[[], float],
        offering: Offering,
    ) -> None:
        self._region, self._state, self._now = region, state, now
        self.devices: dict[str, DeviceSeen] = {}
        self.manifests = manifests
        self._signatures: dict[tuple[str, int], Signature] = {}
        self._measured = Measured()
        self._tables: dict[str, VersionTable] = {}
        self._ready: dict[str, int] = {}
        self._generation = 0
        self._turns = Turns()
        self._due: set[str] = set()
        """Devices whose turn to be assigned has yet to come."""
        self.offering = offering
        self.own: Own | None = None
        self.telling = Telling(self.record)
        self.changed = asyncio.Event()
        """Something that the cloud should hear of."""

    # --- devices -------------------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        """A device is here (again): it is told what it should hold; what others hold does not hang on it."""
        seen = self.devices.get(peer.node)
        if seen is None:
            seen = self.devices[peer.node] = DeviceSeen(peer, peer.name)
        seen.peer, seen.alive, seen.since, seen.assigned = peer, True, self._now(), None
        seen.offered = None
        self.assign_to(seen)
        self._tell(peer.node)

    def left(self, node: str) -> None:
        """A device is away."""
        seen = self.devices.get(node)
        if seen is not None:
            seen.alive, seen.since = False, self._now()
            self._tell(node)

    def report(self, peer: Peer, report: DeviceReport) -> None:
        """What a device holds now."""
        seen = self.devices.get(peer.node)
        if seen is None:
            return
        relabelled = seen.own_labels != report.labels
        fresh = seen.assigned is None or bool(seen.updates) != bool(report.updates)
        seen.models, seen.own_labels, seen.sources = report.models, report.labels, report.sources
        seen.updates = report.updates
        if self._measured.learn(peer.node, peer.device_class, report):  # what it measured is true of its whole class
            self.assign()
        elif relabelled or fresh:
            self.assign_to(seen)
        self._tell(peer.node)

    def _tell(self, *nodes: str) -> None:
        self.telling.changed.update(dict.fromkeys(nodes))
        self.changed.set()

    def labels(self, seen: DeviceSeen) -> dict[str, str]:
        """Labels in force: the journal's over those of the certificate over what the device says of itself."""
        certificate = seen.peer.certificate
        enrolled = certificate.labels if certificate else {}
        return {**seen.own_labels, **self._state().labels(seen.peer.node, enrolled)}

    # --- models --------------------------------------------------------------------------------------------------

    def journal_changed(self) -> None:
        """New entries came into force, or new manifests are known: place again."""
        for version, manifest in self.manifests.items():
            if version not in self._signatures:
                self._signatures[version] = signature_of(manifest)
        self.assign()
        self._tell(*self.devices)

    def assign(self) -> None:
        """Tell each device what it should hold, where that changed."""
        state = self._state()
        if self.own is not None:
            labels = self._own_labels(self.own)
            here = Device(self.own.node, self._region, OWN_CLASS, labels, local=True)
            self.own.assign(place(state, self.manifests, self._measured, here))
        due = self.devices.keys() - self._due
        self._due |= due
        self._turns.add(partial(self._assign_next, node) for node in self.devices if node in due)

    def _assign_next(self, node: str) -> None:
        self._due.discard(node)
        if node in self.devices:  # it may have been forgotten meanwhile
            self.assign_to(self.devices[node])

    def assign_to(self, seen: DeviceSeen) -> None:
        """Tell one device what it should hold, unless it knows. What was not taken is said again after its report."""
        if not seen.alive or not seen.peer.live:
            return
        labels = self._placing(seen)
        self._offer(seen, labels)
        device = Device(seen.peer.node, self._region, seen.peer.device_class, labels)
        wanted = place(self._state(), self.manifests, self._measured, device)
        if wanted == seen.assigned:
            return
        self._generation += 1
        try:
            for part in _parts(self._generation, wanted, seen.peer.limit):
                seen.peer.send(part)
        except errors.FrameTooLarge as error:  # it keeps what it has; said once, until something else is wanted
            log.warning("device.assignment_too_large", device=seen.name, models=len(wanted), error=error.text)
        except (errors.Disconnected, errors.Overloaded) as error:
            log.info("device.not_assigned", device=seen.name, error=error.text)
            seen.assigned = None
            return
        seen.assigned = wanted

    def _placing(self, seen: DeviceSeen) -> dict[str, str]:
        """What selectors see of a device."""
        known = {"name": seen.name, "region": self._region, "class": seen.peer.device_class}
        return {"tier": "device", **self.labels(seen), **known}

    def _offer(self, seen: DeviceSeen, labels: dict[str, str]) -> None:
        """Tell a device which images it should run, where that changed. One that says nothing of updates knows none."""
        if seen.updates and seen.peer.agent:
            offers = self.offering.offers(seen.peer.node, labels, seen.peer.device_class)
            if offers != seen.offered and self.offering.tell(seen.peer, offers):
                seen.offered = offers

    def images(self) -> dict[str, int]:
        """Artifacts that devices here will ask for to update themselves, with their sizes."""
        here = [seen for seen in self.devices.values() if seen.updates]
        return self.offering.wanted((self._placing(seen), seen.peer.device_class) for seen in here)

    def _own_labels(self, own: Own) -> dict[str, str]:
        labels = self._state().labels(own.node)
        return {**labels, "tier": "edge", "name": own.name, "region": self._region, "class": OWN_CLASS}

    def _holders(self) -> Iterator[tuple[str, tuple[ModelState, ...]]]:
        """Who computes here, and what each has."""
        for node, seen in self.devices.items():
            if seen.alive:
                yield node, seen.models
        if self.own is not None:
            yield self.own.node, self.own.models

    def tables(self) -> list[VersionTable]:
        """Version tables that changed since the last call."""
        ready: dict[str, dict[str, frozenset[int]]] = {}
        for node, models in self._holders():
            for model in models:
                if model.state == "ready":
                    versions = ready.setdefault(model.model, {}).get(node, frozenset())
                    ready[model.model][node] = versions | {model.version}
        self._ready = {model: len(nodes) for model, nodes in ready.items()}
        rollouts = self._state().rollouts_in(self._region)
        out = [VersionTable(name, 0) for name in sorted(self._tables.keys() - rollouts.keys())]  # withdrawn
        for gone in out:
            del self._tables[gone.model]
        for name, rollout in rollouts.items():
            table = version_table(rollout, ready.get(name, {}))
            if self._tables.get(name) != table:
                self._tables[name] = table
                out.append(table)
        return out

    def ready_models(self) -> Collection[str]:
        """Models that somebody here can answer, as of the last `tables`."""
        return self._ready.keys()

    def ready_model(self, model: str) -> int:
        """How many here can answer it, as of the last `tables`."""
        return self._ready.get(model, 0)

    def settled(self, model: str, version: int = 0) -> int:
        """The one version that answers such a request; 0 while there are two."""
        table = self._tables.get(model)
        return version or (table.stable if table is not None and not table.candidate else 0)

    def serving_versions(self) -> list[VersionTable]:
        """The tables in force."""
        return list(self._tables.values())

    def serving(self, model: str, version: int = 0) -> int:
        """The version that a request means. Raises NotFound."""
        if version:
            if (model, version) not in self.manifests:
                raise errors.NotFound(f"{model} has no version {version}", hint="see GET /v2/models/" + model)
            return version
        table = self._tables.get(model)
        if table is None or not (table.stable or table.candidate):
            raise errors.NotFound(f"no model {model!r} is rolled out here", hint="msrt model list")
        return table.stable or table.candidate

    def validate(
        self, model: str, version: int, inputs: tuple[TensorSpec, ...], frames: tuple[Buffer, ...] | list[Buffer]
    ) -> int:
        """Rows of a request. Raises NotFound, InvalidTensor."""
        signature = self._signatures.get((model, self.serving(model, version)))
        if signature is None:
            raise errors.Unavailable(f"{model} is not here yet")
        return signature.check(inputs, frames)

    def metadata(self, model: str, version: int) -> ModelInfo:
        """What a caller needs to know to ask. Raises NotFound, Unavailable."""
        manifest = self.manifests.get((model, self.serving(model, version)))
        if manifest is None:
            raise errors.Unavailable(f"{model} is not here yet")
        versions = tuple(sorted(v for name, v in self.manifests if name == model))
        return ModelInfo(model, versions, manifest.inputs, manifest.outputs, labels=manifest.labels)

    def held(self) -> Iterator[ModelState]:
        """What each of those who compute here has."""
        for _, models in self._holders():
            yield from models

    def awaited(self, model: str, version: int) -> int:
        """How many living devices were told to hold it."""
        return sum(
            seen.alive and any(p.model == model and p.version == version for p in seen.assigned or ())
            for seen in self.devices.values()
        )

    def ready_somewhere(self, model: str, version: int) -> bool:
        """Has any device this version ready?"""
        return any(
            m.model == model and m.version == version and m.state == "ready"
            for _, models in self._holders()
            for m in models
        )

    # --- what the cloud hears --------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Let go of those who are away for long."""
        now = self._now()
        for node in [n for n, seen in self.devices.items() if not seen.alive and now - seen.since > FORGET_S]:
            del self.devices[node]

    @property
    def everyone(self) -> list[str]:
        """Of whom the cloud hears: the devices, and this edge itself where it runs models."""
        own = [self.own.node] if self.own is not None and self.own.models else []
        return [*self.devices, *own]

    def own_changed(self) -> None:
        """This edge's own engine has loaded something, or let it go."""
        if self.own is not None:
            self._tell(self.own.node)

    def record(self, node: str) -> DeviceRecord | None:
        """What the cloud should know of one device, or of this edge's own engine."""
        seen = self.devices.get(node)
        own = self.own
        if own is not None and node == own.node:
            return DeviceRecord(node, own.name, True, OWN_CLASS, self._own_labels(own), own.models)  # noqa: FBT003
        if seen is None:
            return None
        return DeviceRecord(
            node=node, name=seen.name, alive=seen.alive, device_class=seen.peer.device_class,
            labels=self.labels(seen), models=seen.models, link=_scheme(seen.peer), values=seen.values,
            sources=seen.sources, updates=seen.updates, agent=seen.peer.agent, serial=seen.peer.serial,
        )  # fmt: skip


def _parts(generation: int, wanted: tuple[Placement, ...], limit: int) -> Iterator[Assign]:
    """An assignment in messages that the device's link takes: a manifest may be long, and there may be many."""
    most, size, some = min(limit, wire.HEADER_LIMIT) // 2, 0, list[Placement]()
    for placement in wanted:
        length = len(wire.pack(placement))
        if some and size + length > most:
            yield Assign(generation, tuple(some), more=True)
            size, some = 0, []
        some.append(placement)
        size += length
    yield Assign(generation, tuple(some))


def _scheme(peer: Peer) -> str:
    """How a device is connected: zmq, mqtt or mem."""
    scheme = peer.link.address.partition(":")[0] if peer.link else ""
    return {"tcp": "zmq", "ipc": "zmq", "mqtts": "mqtt"}.get(scheme, scheme)
