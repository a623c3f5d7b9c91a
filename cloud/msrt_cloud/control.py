"""What operators, clients and edges may ask of the cloud: one table of methods, each with its typed parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from msrt import errors
from msrt.hop import Peer
from msrt.journal.facts import BrokerAccount, InviteIssued, NodeLabelled, NodeRevoked
from msrt.protocol.address import check_label
from msrt.protocol.messages import Parent
from msrt.trust.identity import Purpose
from msrt.trust.invite import Invite
from msrt.trust.roles import Role, check_call
from msrt.trust.tls import mosquitto_password
from msrt_cloud import status
from msrt_cloud.exports import Exports, JobExport, JobPart, JobServe
from msrt_cloud.images import ImagePush, ImageRequest
from msrt_cloud.jobs import JobList, JobLogs, JobName, JobNodes, JobReport, Jobs, TrainRun
from msrt_cloud.keys import KeyCreate, KeyName, Keys
from msrt_cloud.policies import ModelPolicyAsk, ModelShadow, Policies
from msrt_cloud.registry import Push
from msrt_cloud.signing.desk import Desk, KindName, ListRequest, ListSigned, RootsImport
from msrt_cloud.stats import serving_rows
from msrt_cloud.updates import UpdateBegin, UpdateName

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["Control"]


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class Nothing(_Params, frozen=True):
    """No parameters."""


class InviteCreate(_Params, frozen=True):
    """See `msrt invite`."""

    role: str
    region: str = ""
    labels: dict[str, str] = {}
    ttl_s: float = 0.0
    """0: as the cloud's settings say."""


class NodeName(_Params, frozen=True):
    """A node by name or id."""

    node: str


class NodeLabel(_Params, frozen=True):
    """Labels to set, and keys to remove."""

    node: str
    labels: dict[str, str] = {}
    remove: list[str] = []


class NodeRemove(_Params, frozen=True):
    """A node to revoke."""

    node: str
    reason: str = ""


class NodeLogs(_Params, frozen=True):
    """The last lines of a node's log; with `after` and `run` of an earlier answer only newer ones."""

    node: str
    lines: int = 50
    after: int | None = None
    run: str = ""


class ModelName(_Params, frozen=True):
    """A model, and perhaps a version."""

    model: str
    version: int = 0


class ModelRollout(_Params, frozen=True):
    """See `msrt model rollout`."""

    model: str
    version: int = 0
    canary: str = ""
    selector: str = ""
    window_s: float = 0.0
    traffic: Annotated[float, msgspec.Meta(ge=0, le=0.99)] = 0.0
    """Share of the requests; 0: by devices alone."""


class ModelStats(_Params, frozen=True):
    """See `msrt model stats`."""

    model: str = ""


class ModelHere(_Params, frozen=True):
    """A model in one region: an edge's own, or whichever an operator names; empty: in the tree."""

    model: str
    version: int = 0
    region: str = ""


class EventsAfter(_Params, frozen=True):
    """See msrt_cloud.events."""

    after: int = -1
    model: str = ""
    device: str = ""
    limit: int = 500
    wait_s: float = 10.0


Method = Callable[[Peer, Any], Awaitable[object]]


class Control:
    """Dispatches calls by their table."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        keys, policies, jobs, desk = Keys(cloud), Policies(cloud), Jobs(cloud), Desk(cloud)
        exports = Exports(cloud)
        self._table: dict[str, tuple[type[msgspec.Struct], Method]] = {
            "invite.create": (InviteCreate, self._invite),
            "key.create": (KeyCreate, keys.create),
            "key.list": (Nothing, keys.rows),
            "key.revoke": (KeyName, keys.revoke),
            "status": (Nothing, self._status),
            "edges": (Nothing, self._edges),
            "node.list": (Nothing, self._node_list),
            "node.label": (NodeLabel, self._node_label),
            "node.remove": (NodeRemove, self._node_remove),
            "node.decommission": (NodeRemove, self._node_decommission),
            "node.logs": (NodeLogs, self._node_logs),
            "node.diagnose": (NodeName, self._node_diagnose),
            "model.push": (Push, self._model_push),
            "model.list": (Nothing, self._model_list),
            "model.show": (ModelName, self._model_show),
            "model.rollout": (ModelRollout, self._model_rollout),
            "model.rollout.status": (ModelName, self._rollout_status),
            "model.rollback": (ModelName, self._model_rollback),
            "model.load": (ModelHere, self._model_load),
            "model.unload": (ModelHere, self._model_unload),
            "model.policy": (ModelPolicyAsk, policies.policy),
            "model.shadow": (ModelShadow, policies.shadow),
            "model.stats": (ModelStats, self._model_stats),
            "train.run": (TrainRun, jobs.run),
            "train.status": (JobName, jobs.status),
            "train.list": (JobList, jobs.rows),
            "train.report": (JobReport, jobs.report),
            "train.nodes": (JobNodes, jobs.nodes),
            "train.logs": (JobLogs, jobs.logs),
            "train.pause": (JobName, jobs.pause),
            "train.resume": (JobName, jobs.resume),
            "train.stop": (JobName, jobs.stop),
            "train.remove": (JobName, jobs.remove),
            "train.export": (JobExport, exports.export),
            "train.part": (JobPart, exports.part),
            "train.serve": (JobServe, exports.serve),
            "update.push": (ImagePush, cloud.images.push),
            "update.request": (ImageRequest, cloud.images.request),
            "update.images": (Nothing, cloud.images.rows),
            "update.rollout": (UpdateBegin, cloud.updates.begin),
            "update.status": (UpdateName, cloud.updates.status),
            "update.pause": (UpdateName, cloud.updates.pause),
            "update.resume": (UpdateName, cloud.updates.resume),
            "update.stop": (UpdateName, cloud.updates.stop),
            "trust.show": (Nothing, desk.show),
            "trust.root": (Nothing, desk.root),
            "trust.import": (RootsImport, desk.roots_import),
            "trust.rotate": (KindName, desk.rotate),
            "trust.request": (ListRequest, desk.request),
            "trust.accept": (ListSigned, desk.accept),
            "events.after": (EventsAfter, self._events_after),
        }

    async def called(self, peer: Peer, method: str, params: dict[str, object]) -> object:
        """Answer a call. Raises Forbidden, CallerError that names the bad parameter, and what the method raises."""
        check_call(peer.role, method)
        found = self._table.get(method)
        if found is None:
            raise errors.NotFound(f"the cloud has no method {method!r}", hint="upgrade the cloud, or this command")
        kind, run = found
        given = {key: value for key, value in params.items() if key != "_call"}
        try:
            typed = msgspec.convert(given, kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise errors.CallerError(f"{method}: {error}") from None
        return await run(peer, typed)

    def _bounded(self, digest: str, limit: int, what: str) -> None:
        size = self._cloud.artifacts.size(digest)
        if size is None:
            raise errors.NotFound(f"no {what} {digest[:12]} was sent here", hint="send it first")
        if size > limit:
            raise errors.FrameTooLarge(size, limit, what)

    # --- invites and nodes ----------------------------------------------------------------------------------

    async def _invite(self, peer: Peer, p: InviteCreate) -> object:
        cloud, wall = self._cloud, self._cloud.world.wall()
        parents: tuple[Parent, ...] = (cloud.address,)
        if p.role == Role.DEVICE:
            parents = cloud.fleet.parents(p.region)
            if not parents or (p.region and all(parent.region != p.region for parent in parents)):
                where = f" in the region {p.region!r}" if p.region else ""
                raise errors.Unavailable(f"no edge{where} has joined yet", hint="start one first: msrt edge join")
        region = p.region or (parents[0].region if p.role == Role.DEVICE else "")
        invite = Invite.make(
            cloud.identity, cloud.world.random.randbytes, role=p.role, parents=parents,
            expires=wall + (p.ttl_s or cloud.setup.config.invite_ttl_s),
            region=region, labels=p.labels,
        )  # fmt: skip
        record = invite.record
        issued = InviteIssued(
            record.id, record.role, record.secret_hash, record.expires, record.region, record.labels, peer.name, wall
        )
        facts: list[InviteIssued | BrokerAccount] = [issued]
        if p.role == Role.DEVICE:
            salt = cloud.world.random.randbytes(12)
            line = await cloud.world.offload(mosquitto_password, invite.secret.hex(), salt)
            facts.append(BrokerAccount(f"invite-{invite.id}", line, wall=wall))
        await cloud.writer.append(*facts)
        return {"invite": invite.encode()}

    async def _edges(self, peer: Peer, _p: Nothing) -> object:
        region = peer.certificate.region if peer.certificate else ""
        return [msgspec.to_builtins(p, builtin_types=(bytes,)) for p in self._cloud.fleet.parents(region)]

    async def _node_list(self, _peer: Peer, _p: Nothing) -> object:
        return await status.node_rows(self._cloud.writer.state, self._cloud.fleet)

    async def _node_label(self, _peer: Peer, p: NodeLabel) -> object:
        for key, value in p.labels.items():
            check_label(key, value)
        state = self._cloud.writer.state
        node = self._cloud.fleet.find(state, p.node)
        labels = {k: v for k, v in {**state.labels(node.node), **p.labels}.items() if k not in p.remove}
        await self._cloud.writer.append(NodeLabelled(node.node, labels, self._cloud.world.wall()))
        return {"node": node.node, "labels": labels}

    async def _node_remove(self, _peer: Peer, p: NodeRemove) -> object:
        node = self._cloud.fleet.find(self._cloud.writer.state, p.node)
        wall = self._cloud.world.wall()
        await self._cloud.writer.append(
            NodeRevoked(node.node, node.enrolled.serial, p.reason, wall),
            BrokerAccount(node.node, "", wall=wall),
        )
        self._cloud.downlink.expel(node.node, errors.Revoked(f"{node.name} was removed from the tree"))
        if node.role == Role.EDGE:
            self._cloud.edge_removed(node.node)
        return {"node": node.node}

    async def _node_decommission(self, _peer: Peer, p: NodeRemove) -> object:
        """Revoke a device, with a signed order to wipe itself: whichever edge sends it away hands it on.

        Its account at a broker stays: else a device on MQTT would never hear of it. It may say nothing but hello there.
        """
        cloud = self._cloud
        node = cloud.fleet.find(cloud.writer.state, p.node)
        if node.role != Role.DEVICE:
            raise errors.CallerError(f"{node.name} is no device but {node.role}", hint="msrt node remove")
        connected = cloud.fleet.home(node.node) is not None
        order = cloud.identity.sign(node.node.encode(), Purpose.WIPE)
        await cloud.writer.append(
            NodeRevoked(node.node, node.enrolled.serial, p.reason, cloud.world.wall(), order=order)
        )
        return {"node": node.node, "connected": connected}

    async def down(self, name: str, method: str, params: dict[str, object], within_s: float = 10.0) -> object:
        """Ask a node through its edge."""
        cloud = self._cloud
        node = cloud.fleet.find(cloud.writer.state, name)
        edge = cloud.fleet.edge_of(node)
        peer = cloud.downlink.peers.get(edge.node)
        if peer is None:
            raise errors.Unavailable(f"the edge {edge.name} is away")
        return await peer.call(method, {"node": node.node, **params}, within_s)

    async def _node_logs(self, _peer: Peer, p: NodeLogs) -> object:
        more: dict[str, object] = {} if p.after is None else {"after": p.after, "run": p.run}
        return await self.down(p.node, "node.logs", {"lines": p.lines, **more})

    async def _node_diagnose(self, _peer: Peer, p: NodeName) -> object:
        return await self.down(p.node, "node.diagnose", {})

    async def _status(self, _peer: Peer, _p: Nothing) -> object:
        cloud = self._cloud
        jobs = cloud.training.rows("")
        return await status.tree(cloud.writer.log, cloud.fleet, cloud.rollouts, jobs, cloud.summary())

    # --- models ----------------------------------------------------------------------------------------------

    async def _model_push(self, _peer: Peer, p: Push) -> object:
        for digest, what in ((p.file, "model"), (p.pre, "pre-processing graph"), (p.post, "post-processing graph")):
            if digest:
                self._bounded(digest, self._cloud.setup.config.model_bytes, what)
        return await self._cloud.registry.push(p)

    async def _model_list(self, _peer: Peer, _p: Nothing) -> object:
        return status.model_rows(self._cloud.writer.state, self._cloud.rollouts)

    async def _model_show(self, _peer: Peer, p: ModelName) -> object:
        manifest, report = self._cloud.registry.find(p.model, p.version)
        return status.show_model(manifest, report)

    async def _model_rollout(self, _peer: Peer, p: ModelRollout) -> object:
        return await self._cloud.rollouts.begin(p.model, p.version, p.canary, p.selector, p.window_s, traffic=p.traffic)

    async def _model_stats(self, _peer: Peer, p: ModelStats) -> object:
        if p.model and p.model not in self._cloud.writer.state.models:
            raise errors.NotFound(f"no model is named {p.model!r}", hint="msrt model list")
        return serving_rows(self._cloud, p.model)

    async def _rollout_status(self, _peer: Peer, p: ModelName) -> object:
        return self._cloud.rollouts.status(p.model)

    async def _model_rollback(self, _peer: Peer, p: ModelName) -> object:
        return await self._cloud.rollouts.rollback(p.model)

    async def _model_load(self, peer: Peer, p: ModelHere) -> object:
        return await self._cloud.rollouts.begin(p.model, p.version, "", "", 0.0, _region(peer, p.region))

    async def _model_unload(self, peer: Peer, p: ModelHere) -> object:
        return await self._cloud.rollouts.withdraw(p.model, _region(peer, p.region))

    # --- events -----------------------------------------------------------------------------------

    async def _events_after(self, _peer: Peer, p: EventsAfter) -> object:
        return await self._cloud.events.after(p.after, p.model, p.device, p.limit, p.wait_s)


def _region(peer: Peer, named: str) -> str:
    """The region that a caller speaks of: an edge of its own alone. Raises Forbidden."""
    if peer.role != Role.EDGE:
        return named
    own = peer.certificate.region if peer.certificate else ""
    if not own or named not in ("", own):
        raise errors.Forbidden(f"an edge of {own or 'no region'} loads no models in {named or 'the tree'}")
    return own
