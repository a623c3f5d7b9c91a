"""Inference in the cloud: what was rolled out with `--to tier=cloud` runs here; other requests are passed on to an edge
that has the model."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.dispatch import Config, Dispatcher, VersionTable
from msrt.dispatch.canary import is_canary
from msrt.dispatch.overflow import TRIES, Path, choose
from msrt.hop import Peer
from msrt.inference.bundle import Manifest, signature_of
from msrt.inference.bundle import choose as choose_variant
from msrt.inference.local import LocalEngine
from msrt.inference.signature import Signature
from msrt.journal.facts import RolloutSet
from msrt.journal.state import Facts
from msrt.protocol import wire
from msrt.protocol.address import Selector
from msrt.protocol.messages import (
    DeviceRecord,
    Infer,
    InferCancel,
    InferFailed,
    Inferred,
    Message,
    Placement,
    TensorSpec,
)
from msrt.serving.asked import Asked
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.relay import Relay
from msrt.serving.requests import Requests
from msrt.serving.tally import Tally
from msrt.serving.traced import Tracing

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["Serving"]

log = structlog.get_logger()
NAME: Final = "cloud"
CLASS: Final = "master"
MARGIN: Final = 0.9


class Serving:
    """What this process answers itself, as the one worker of its own dispatcher, and what it passes on."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._world = cloud, cloud.world
        node = cloud.identity.node
        setup = cloud.setup
        self.dispatcher = Dispatcher(Config(record_share=setup.config.record_share), cloud.world.random)
        self.tally = Tally()
        self.requests = Requests(cloud.world, self.dispatcher, self._validate, self.tally)
        self.requests.record = setup.record
        self._tracing = Tracing(setup.tracer, lambda _node: NAME) if setup.tracer is not None else None
        if self._tracing is not None:
            self.requests.trails = self._tracing.trails
        self.engine = LocalEngine(
            cloud.world, node, NAME, fetch=cloud.artifacts.read,
            vouch=cloud.trust.vouch,
            heard=lambda message, frames: self.requests.own_answer(node, message, frames), changed=self._changed,
        )  # fmt: skip
        self.relay = Relay(cloud.world.now, setup.tracer)
        self._asked = Asked(self.infer)
        self._signatures: dict[tuple[str, int], Signature] = {}
        self._tables: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._works = False
        cloud.fleet.own = self.record
        cloud.writer.subscribe(self._journal)
        self._assign()

    async def run(self) -> None:
        """Until cancelled."""
        await self.engine.run()

    def record(self) -> DeviceRecord:
        """This engine, as rollouts see a device."""
        return DeviceRecord(self.engine.node, NAME, True, CLASS, _labels(), self.engine.models)  # noqa: FBT003

    def ready(self, model: str, version: int = 0) -> bool:
        """Whether this cloud, or an edge that it would ask, can answer now."""
        return bool(self._own(model, version)) or bool(self._cloud.fleet.holders(model))

    # --- what should run here ------------------------------------------------------------------------------------

    def _journal(self, _facts: Facts) -> None:
        self._assign()

    def _assign(self) -> None:
        state = self._cloud.writer.state
        out = []
        for model, rollout in sorted(state.rollouts_in("").items()):
            for number, version in enumerate(_versions(rollout, self.engine.node)):
                pushed = state.models.get(model, {}).get(version)
                if pushed is None:
                    continue
                manifest = wire.unpack(pushed.manifest, Manifest)
                self._signatures.setdefault((model, version), signature_of(manifest))
                variant = choose_variant(manifest, CLASS)
                out.append(Placement(model, version, variant, pushed.manifest, pushed.signature, serve=number == 0))
        self.engine.assign(tuple(out))

    def _changed(self) -> None:
        """What is loaded changed: one more worker from its first model on."""
        node, models = self.engine.node, self.engine.models
        if not self._works:
            self._works = True
            self.requests.worker_up(self.engine)
        self.requests.own_models(node, models)
        ready: dict[str, set[int]] = {}
        for model in models:
            if model.state == "ready":
                ready.setdefault(model.model, set()).add(model.version)
        rollouts = self._cloud.writer.state.rollouts_in("")
        tables = {}
        for model_name, versions in ready.items():
            rollout = rollouts.get(model_name)
            wanted = _versions(rollout, node) if rollout is not None else []
            tables[model_name] = next((version for version in wanted if version in versions), max(versions))
        for gone in sorted(self._tables.keys() - tables.keys()):
            self.requests.versions(VersionTable(gone, 0))
        for name, version in tables.items():
            if self._tables.get(name) != version:
                self.requests.versions(VersionTable(name, version))
        self._tables = tables

    def _own(self, model: str, version: int = 0) -> int:
        """The version that this process would answer with, 0 for none."""
        if not version:
            return self._tables.get(model, 0)
        held = any(m.model == model and m.version == version and m.state == "ready" for m in self.engine.models)
        return version if held else 0

    def _validate(
        self, model: str, version: int, inputs: tuple[TensorSpec, ...], frames: tuple[Buffer, ...] | list[Buffer]
    ) -> int:
        """Rows of a request. Raises InvalidTensor."""
        return self._signatures[model, self._own(model, version)].check(inputs, frames)

    # --- asking --------------------------------------------------------------------------------------------------

    async def infer(self, request: InferRequest, asker: str = "") -> InferAnswer:
        """Here if the model is here, else by an edge that has it. Raises NotFound, InvalidTensor, Overloaded,
        Unavailable, DeadlineExceeded."""
        tracing = self._tracing
        if tracing is not None and tracing.wants(request.trace, request.hops):
            return await tracing.infer(request, lambda asked: self._infer(asked, asker))
        return await self._infer(request, asker)

    async def _infer(self, request: InferRequest, asker: str) -> InferAnswer:
        began = self._world.now()
        version = self._own(request.model, request.version)
        fault: errors.MsrtError | None = None
        if version:
            try:
                found = await self.requests.infer(request)
                marks = {"answered_by": NAME, **found.marks}
                return msgspec.structs.replace(found, marks=marks)
            except (errors.Overloaded, errors.Unavailable) as error:
                if request.sequence:
                    raise  # its state is here
                fault = error
        left = request.timeout_s * MARGIN - (self._world.now() - began)
        return await self._pass_on(request, asker, left, fault)

    async def _pass_on(
        self, request: InferRequest, asker: str, left_s: float, fault: errors.MsrtError | None
    ) -> InferAnswer:
        self._cloud.registry.find(request.model, request.version)
        until = self._world.now() + left_s
        holders = {edge.node: edge.region for edge in self._cloud.fleet.holders(request.model)}
        if request.sequence and holders:
            holders = dict([_home(request.sequence, holders)])
        for node, region in holders.items():
            self._paths.setdefault(node, Path(node, region))
        tried: list[str] = []
        while len(tried) < TRIES:
            now = self._world.now()
            paths = [self._paths[node] for node in holders]
            path = choose(
                paths, request.model, hops=request.hops, asker=asker, left_s=until - now, now=now, tried=tried
            )
            if path is None:
                break
            tried.append(path.name)
            try:
                return await self._by(path, request, until - now)
            except errors.MsrtError as error:
                fault = error
                path.refused(request.model, error.code, float(getattr(error, "retry_after", 0.0)), self._world.now())
        raise fault or errors.Unavailable(
            f"the cloud runs no {request.model}, and no edge that can be asked has it ready",
            hint="roll it out: msrt model rollout NAME --to tier=cloud",
        )

    async def _by(self, path: Path, request: InferRequest, left_s: float) -> InferAnswer:
        peer = self._cloud.downlink.peers.get(path.name)
        if peer is None:
            raise errors.Disconnected("that edge is away")
        sent = self._world.now()
        found = await self.relay.ask(peer, request, left_s, request.hops + 1)
        path.answered(self._world.now() - sent, found.compute_s, found.queue_s)
        answer = found.answer
        marks = {"region": path.region, **answer.marks}
        return InferAnswer(answer.version, answer.variant, answer.device, answer.outputs, answer.frames, marks)

    # --- peers ---------------------------------------------------------------------------------------------------

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> bool:
        """Whether it was one of ours."""
        match message:
            case Infer():
                self._asked.received(peer, message, frames)
            case InferCancel():
                self._asked.cancelled(peer, message)
            case Inferred():
                self.relay.answered(peer, message, frames)
            case InferFailed():
                self.relay.failed(peer, message)
            case _:
                return False
        return True

    def left(self, peer: Peer, *, final: bool) -> None:
        """A peer went silent, or is gone."""
        self.relay.gone(peer)
        if final:
            self._asked.gone(peer)


def _home(sequence: str, holders: Mapping[str, str]) -> tuple[str, str]:
    """The edge that all steps of a sequence go to: the same one as long as it has the model."""
    return max(holders.items(), key=lambda holder: zlib.crc32(f"{holder[0]}/{sequence}".encode()))


def _labels() -> dict[str, str]:
    return {"tier": "cloud", "name": NAME, "region": "", "class": CLASS}


def _versions(rollout: RolloutSet, node: str) -> list[int]:
    """What this cloud should hold for one rollout, the one it serves first: as an edge decides for a device."""
    selector = Selector.parse(rollout.selector)
    if not selector.names("tier") or not selector.matches(_labels()):
        return []
    if rollout.state == "rolled_back":
        return [rollout.previous] if rollout.previous else []
    if rollout.state == "canary" and rollout.previous:
        first = is_canary(rollout.canary, "", node, rollout.model)
        pair = [rollout.version, rollout.previous] if first else [rollout.previous]
        return pair[::-1] if rollout.traffic else pair  # one process is no sample: here the stable one answers
    return [rollout.version]
