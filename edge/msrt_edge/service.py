"""What callers ask of an edge: requests of a model without a policy go straight to its devices, at the cost of one
look-up in a dict; the others go through the stages that their policy names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from msrt import errors
from msrt.buffers import Buffer
from msrt.dispatch.mirror import ShadowView
from msrt.dispatch.overflow import HOPS
from msrt.dispatch.policy import PLAIN, ModelPolicy
from msrt.hop import Peer
from msrt.protocol.messages import Infer, InferCancel
from msrt.serving.asked import Asked
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.relay import Relay
from msrt.serving.traced import Tracing, staged
from msrt.telemetry.spans import CHOSEN
from msrt_edge.neighbours import Neighbours
from msrt_edge.stages.caching import Caching
from msrt_edge.stages.call import Call
from msrt_edge.stages.cascading import Cascading
from msrt_edge.stages.mirroring import Mirroring
from msrt_edge.stages.overflowing import CLOUD, Overflowing

if TYPE_CHECKING:
    from msrt_edge.master import Edge

__all__ = ["Service"]


class _Chain:
    """One model's stages while its policy stays the same: what they have learned stays with them."""

    def __init__(self, policy: ModelPolicy) -> None:
        self.policy = policy
        self.entry: Call
        self.caching: Caching | None = None
        self.cascading: Cascading | None = None
        self.mirroring: Mirroring | None = None

    def close(self) -> None:
        if self.mirroring is not None:
            self.mirroring.close()


class Service:
    """`infer` is for the HTTP front, the rest for peers."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._world = edge.world
        self._chains: dict[str, _Chain] = {}
        self._entries: dict[str, Call] = {}
        """Models that take more than dispatch: those with stages, and those that nobody here has."""
        tracer = self._tracer = edge.setup.tracer
        self._tracing = Tracing(tracer, self._named) if tracer is not None else None
        if self._tracing is not None:
            edge.requests.trails = self._tracing.trails
        self.relay = Relay(edge.world.now, tracer)
        self.neighbours = Neighbours(
            edge.world, edge.hello, edge.endpoint, self.relay, edge.parameters.pulled, edge.parameters.pull_stream
        )
        self.overflowing = Overflowing(edge.world, self.relay, self._reach, self._overflows, edge.requests, tracer)
        edge.requests.spill = self.overflowing.spill
        self._asked = Asked(self._peer_asks)

    async def close(self) -> None:
        """Stop what goes on beside the requests."""
        self.overflowing.close()
        for chain in self._chains.values():
            chain.close()
        await self.neighbours.close()

    # --- asking ------------------------------------------------------------------------------------------------

    def infer(self, request: InferRequest) -> Awaitable[InferAnswer]:
        """One request of the HTTP front, or of our own."""
        tracing = self._tracing
        if tracing is not None and tracing.wants(request.trace, request.hops):
            return tracing.infer(request, self._enter)
        return self._enter(request)

    def _enter(self, request: InferRequest) -> Awaitable[InferAnswer]:
        entry = self._entries.get(request.model)
        if entry is None:
            return self._edge.requests.infer(request)
        return entry(request)

    def from_peer(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """Requests of a client, a neighbour or the cloud."""
        if self._tracing is not None and self._tracing.wants(message.trace, message.hops):
            self._asked.received(peer, msgspec.structs.replace(message, trace=message.trace or CHOSEN), frames)
        elif message.model in self._entries:
            self._asked.received(peer, message, frames)
        else:
            self._edge.requests.from_client(peer, message, frames)

    def cancelled(self, peer: Peer, message: InferCancel) -> None:
        """Nobody waits for these any more."""
        self._edge.requests.client_cancelled(peer, message)
        self._asked.cancelled(peer, message)

    def gone(self, peer: Peer) -> None:
        """Its session is over: nothing that it asked is computed any more."""
        self._edge.requests.client_gone(peer)
        self._asked.gone(peer)

    def _peer_asks(self, request: InferRequest, _asker: str) -> Awaitable[InferAnswer]:
        if request.hops:  # stages do not know who passed it here, so it goes no further: it might go back there
            request = msgspec.structs.replace(request, hops=HOPS)
        return self.infer(request)

    # --- what a policy makes of it -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Policies, versions or what devices hold changed."""
        edge = self._edge
        policies = edge.follower.state.policies
        ready = edge.fleet.ready_models()
        rolled = edge.follower.state.rollouts_in(edge.region)
        for model in sorted(self._chains.keys() - policies.keys()):
            self._chains.pop(model).close()
        entries: dict[str, Call] = {}
        for model in rolled:
            policy = policies.get(model, PLAIN)
            empty = model not in ready and policy.overflow
            if not (policy.staged or policy.priority or empty):
                continue
            if not (policy.staged or policy.priority):
                entries[model] = self._elsewhere
                continue
            chain = self._chain(model, policy)
            if chain.caching is not None:
                chain.caching.serving(edge.fleet.settled(model))
            entries[model] = chain.entry
        self._entries = entries
        edge.requests.unhedged = frozenset(model for model, policy in policies.items() if not policy.hedge)

    def _chain(self, model: str, policy: ModelPolicy) -> _Chain:
        chain = self._chains.get(model)
        if chain is not None and chain.policy == policy:
            return chain
        if chain is not None:
            chain.close()
        world, fleet = self._world, self._edge.fleet
        chain = self._chains[model] = _Chain(policy)
        call: Call = self._base
        if policy.shadow:
            chain.mirroring = Mirroring(
                world, model, policy, call, self._staged("shadow", self._copied), self._room(model)
            )
            call = self._staged("mirrored", chain.mirroring.infer)
        if policy.escalate_to:
            known = fleet.manifests
            chain.cascading = Cascading(world, policy, call, self._up, lambda m, v: known.get((m, v)), self._tier)
            call = self._staged("cascade", chain.cascading.infer)
        if policy.cache_bytes:
            chain.caching = Caching(world, policy, lambda r: fleet.settled(r.model, r.version), call, self._edge.tally)
            call = self._staged("cache", chain.caching.infer)
        chain.entry = _prioritised(call, policy.priority) if policy.priority else call
        return chain

    def _copied(self, request: InferRequest) -> Awaitable[InferAnswer]:
        return self._edge.requests.infer(request, copy=True)

    def _staged(self, name: str, call: Call) -> Call:
        return staged(self._tracer, name, call)

    def _named(self, node: str) -> str:
        """A device's name, for people."""
        seen = self._edge.fleet.devices.get(node)
        return seen.peer.name if seen is not None else self._edge.certificate.name if node == self._edge.node else node

    def _base(self, request: InferRequest) -> Awaitable[InferAnswer]:
        """The last step: our own devices, or others at once where none of ours has it."""
        edge = self._edge
        if not edge.fleet.ready_model(request.model) and self._overflows(request.model):
            return self._elsewhere(request)
        return edge.requests.infer(request)

    async def _elsewhere(self, request: InferRequest) -> InferAnswer:
        """Nobody here has it ready: others first, and where they cannot, wait here as long as that makes sense."""
        if request.sequence or request.hops or not self.overflowing.open(request):
            return await self._edge.requests.infer(request)
        self._edge.fleet.validate(request.model, request.version, request.inputs, request.frames)
        began = self._world.now()
        try:
            return await self.overflowing.ask(request)
        except (errors.Overloaded, errors.Unavailable, errors.NotFound, errors.Disconnected, errors.DeadlineExceeded):
            left = request.timeout_s - (self._world.now() - began)
            if left <= 0:
                raise
            return await self._edge.requests.infer(msgspec.structs.replace(request, timeout_s=left))

    async def _up(self, request: InferRequest) -> InferAnswer:
        """The larger model of a cascade: here if somebody has it, else in the tier above."""
        if self._edge.fleet.ready_model(request.model):
            return await self._enter(request)
        cloud = self._edge.uplink.peer
        if cloud is None or not cloud.live:
            raise errors.Unavailable("the cloud is away")
        found = await self.relay.ask(cloud, request, request.timeout_s, request.hops + 1)
        if "answered_by" in found.answer.marks:
            return found.answer
        return msgspec.structs.replace(found.answer, marks={**found.answer.marks, "answered_by": "cloud"})

    def _tier(self, answer: InferAnswer) -> str:
        named = answer.marks.get("answered_by")
        if named:
            return str(named)
        return "edge" if answer.device == self._edge.certificate.name else "device"

    def _overflows(self, model: str) -> bool:
        return self._edge.follower.state.policies.get(model, PLAIN).overflow

    def _room(self, model: str) -> Callable[[], int]:
        """Devices with nothing to do, but one that is kept for the next request."""
        edge = self._edge

        def room() -> int:
            able = edge.fleet.ready_model(model)
            return able - edge.dispatcher.open_requests - (1 if able > 1 else 0)

        return room

    # --- others --------------------------------------------------------------------------------------------------

    def others_changed(self) -> None:
        """The cloud came, went, or named other edges."""
        self.neighbours.know(self._edge.known_edges[1:])
        cloud = self._edge.uplink.peer
        up = [(CLOUD, CLOUD)] if cloud is not None else []
        self.overflowing.ways([*self.neighbours.ways, *up])

    async def _reach(self, name: str, within_s: float) -> Peer:
        if name != CLOUD:
            return await self.neighbours.reach(name, within_s)
        cloud = self._edge.uplink.peer
        if cloud is None or not cloud.live:
            raise errors.Disconnected("the cloud is away")
        return cloud

    # --- what there is to see ------------------------------------------------------------------------------------

    @property
    def chains(self) -> Mapping[str, _Chain]:
        """Stages by model."""
        return self._chains

    def shadows(self, model: str = "") -> list[ShadowView]:
        """What is known of candidates that get copies."""
        return [
            chain.mirroring.view()
            for name, chain in self._chains.items()
            if chain.mirroring is not None and model in ("", name)
        ]

    def seen(self, model: str, version: int) -> tuple[int, int, int, int]:
        """Of one version: rows escalated (where it is the one that serves), copies, those compared, and differing."""
        chain = self._chains.get(model)
        if chain is None:
            return 0, 0, 0, 0
        up = 0
        if chain.cascading is not None and version == self._edge.fleet.settled(model):
            up = chain.cascading.threshold.escalated
        report = chain.mirroring.report if chain.mirroring is not None else None
        if report is None or report.version != version:
            return up, 0, 0, 0
        return up, report.copies, report.judged, report.disagreed

    def shadowed(self) -> list[tuple[str, int]]:
        """Candidates of which something is known."""
        lines = [chain.mirroring.report for chain in self._chains.values() if chain.mirroring is not None]
        return [(report.model, report.version) for report in lines if report.copies]

    def values(self) -> dict[str, float]:
        """Counts, all models together."""
        chains = self._chains.values()
        caches = [chain.caching for chain in chains if chain.caching is not None]
        cascades = [chain.cascading for chain in chains if chain.cascading is not None]
        return {
            "cache_hits": float(sum(one.cache.hits for one in caches)),
            "cache_misses": float(sum(one.cache.misses for one in caches)),
            "cache_shared": float(sum(one.shared for one in caches)),
            "cache_bytes": float(sum(one.cache.bytes for one in caches)),
            "escalated_rows": float(sum(one.threshold.escalated for one in cascades)),
            "escalation_unavailable": float(sum(one.unavailable for one in cascades)),
            "overflowed": float(self.overflowing.passed), "overflow_kept": float(self.overflowing.kept),
        }  # fmt: skip


def _prioritised(following: Call, priority: int) -> Call:
    """Requests that name no priority have this one."""

    def call(request: InferRequest) -> Awaitable[InferAnswer]:
        if not request.priority:
            request = msgspec.structs.replace(request, priority=priority)
        return following(request)

    return call
