"""The desired state: a pure fold over journal entries.

The same entries give the same state, whatever order the scopes arrive in: within a scope entries come by offset, and
where facts of two scopes meet (a device enrolled in its region, revoked globally) the higher offset decides.
"""

from __future__ import annotations

from typing import Self

import msgspec

from msrt.dispatch.policy import ModelPolicy
from msrt.errors import Revoked
from msrt.journal import facts as f
from msrt.journal.fact import Fact
from msrt.journal.facts import Entry, Key
from msrt.trust.api_keys import KeyBook
from msrt.trust.invite import InviteBook, InviteRecord

__all__ = ["Facts", "Job", "Node", "State"]

Facts = list[tuple[int, Entry]]
"""Entries with their offsets, in order."""


class Node(msgspec.Struct, frozen=True):
    """An enrolled node as the journal knows it; whether it lives is the fleet's business."""

    enrolled: f.NodeEnrolled
    offset: int
    labels: dict[str, str]
    revoked: bool

    @property
    def node(self) -> str:
        return self.enrolled.node

    @property
    def name(self) -> str:
        return self.enrolled.name

    @property
    def role(self) -> str:
        return self.enrolled.role

    @property
    def region(self) -> str:
        return self.enrolled.region


class Job(msgspec.Struct, frozen=True):
    """A training job."""

    created: f.JobCreated
    advanced: f.JobAdvanced | None = None
    ended: f.JobEnded | None = None
    held: bool = False
    """By an operator: it opens no round; one that is over starts no other."""
    placed: f.JobPlaced | None = None

    @property
    def state(self) -> str:
        """running, paused, finished, failed or stopped."""
        if self.ended:
            return self.ended.state
        return "paused" if self.held else "running"

    @property
    def round(self) -> int:
        """The last checkpointed round, 0 before the first."""
        return self.advanced.round if self.advanced else 0

    @property
    def weights(self) -> str:
        """Digest of the newest checkpoint; empty before the first."""
        return self.advanced.weights if self.advanced else ""


class State:
    """All facts in force, and the views that the tiers read."""

    def __init__(self) -> None:
        self._live: dict[str, dict[Key, tuple[int, Entry]]] = {}
        self.nodes: dict[str, Node] = {}
        self.revoked: dict[str, tuple[int, int]] = {}
        """Node id to (offset, serial) of its last revocation."""
        self.orders: dict[str, bytes] = {}
        """Node id to the cloud's signed order to wipe itself, where the revocation has one."""
        self._labels: dict[str, tuple[int, dict[str, str]]] = {}
        self.accounts: dict[str, str] = {}
        """MQTT user to its line of the password file."""
        self.api_keys = KeyBook()
        self.invites = InviteBook()
        self.models: dict[str, dict[int, f.ModelPushed]] = {}
        self.rollouts: dict[str, f.RolloutSet] = {}
        """Of the tree."""
        self.regional: dict[tuple[str, str], f.RolloutSet] = {}
        """Of one region, by region and model: there they hold instead."""
        self.policies: dict[str, ModelPolicy] = {}
        self.jobs: dict[str, Job] = {}
        self.forgotten: set[str] = set()
        """Names of jobs that were removed: no other gets one, as devices may still have things of them."""
        self.images: dict[tuple[str, str], dict[str, f.ImagePushed]] = {}
        """By kind and version, then by the classes that they are for."""
        self.updates: dict[str, f.UpdateSet] = {}

    def apply(self, entry: Entry, offset: int) -> None:
        """Fold one entry in."""
        live = self._live.setdefault(entry.scope, {})
        gone = entry.forgets
        if gone:
            for key in gone:
                live.pop(key, None)
        if not gone or isinstance(entry, f.JobForgotten):  # that one's name stays taken
            live.pop(entry.key, None)  # so that a scope's facts stay in the order of their offsets
            live[entry.key] = (offset, entry)
        self._view(entry, offset)

    def facts(self, scope: str) -> Facts:
        """The living facts of a scope by offset: all a snapshot needs. A new list each time."""
        return list(self._live.get(scope, {}).values())

    def said(self, fact: Fact) -> Entry | None:
        """What is in force in place of this fact: the last one of its scope and key."""
        found = self._live.get(fact.scope, {}).get(fact.key)
        return found[1] if found is not None else None

    @property
    def scopes(self) -> list[str]:
        """Scopes that have said anything, sorted."""
        return sorted(self._live)

    def replaced(self, scope: str, facts: Facts) -> State:
        """Another state, with a snapshot's facts in place of everything of that scope."""
        other = State()
        for known in sorted({*self._live, scope}):
            for offset, entry in facts if known == scope else self.facts(known):
                other.apply(entry, offset)
        return other

    # --- questions ---------------------------------------------------------------------------------------------

    def is_revoked(self, node: str, serial: int = 0) -> bool:
        """Whether a certificate with that serial is void. Knows nodes of regions that are not followed, too."""
        revoked = self.revoked.get(node)
        if revoked is None:
            return False
        known = self.nodes.get(node)
        if revoked[1]:
            return (serial or (known.enrolled.serial if known else 0)) <= revoked[1]
        return known is None or known.offset < revoked[0]

    def check_standing(self, node: str, serial: int, name: str) -> None:
        """Raises Revoked, with the order to wipe itself if it was decommissioned."""
        if self.is_revoked(node, serial):
            error = Revoked(f"{name} was removed from the tree")
            error.order = self.orders.get(node, b"")
            raise error

    def labels(self, node: str, enrolled: dict[str, str] | None = None) -> dict[str, str]:
        """A node's labels in force; `enrolled`: those of its certificate, for a node of another region."""
        known = self.nodes.get(node)
        if known:
            return known.labels
        return self._labels[node][1] if node in self._labels else dict(enrolled or {})

    def rollout(self, model: str, region: str = "") -> f.RolloutSet | None:
        """What is said of the tree, or of this region alone."""
        return self.regional.get((region, model)) if region else self.rollouts.get(model)

    def rollouts_in(self, region: str) -> dict[str, f.RolloutSet]:
        """What holds in a region, by model; what was withdrawn there is not among it."""
        here = {model: fact for (where, model), fact in self.regional.items() if where == region}
        return {m: fact for m, fact in {**self.rollouts, **here}.items() if fact.state != "withdrawn"}

    def next_version(self, model: str) -> int:
        """The version that the next push of a model gets; the first is 1."""
        return max(self.models.get(model, {}), default=0) + 1

    def named(self, name: str) -> list[Node]:
        """Nodes of that name that are not revoked."""
        return [node for node in self.nodes.values() if node.enrolled.name == name and not node.revoked]

    # --- bytes -------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """All of it; equal states give equal bytes."""
        return msgspec.msgpack.encode([(scope, self.facts(scope)) for scope in self.scopes])

    @classmethod
    def from_snapshot(cls, data: bytes) -> Self:
        """The inverse of `snapshot`."""
        state = cls()
        for _scope, facts in msgspec.msgpack.decode(data, type=list[tuple[str, list[tuple[int, Entry]]]]):
            for offset, entry in facts:
                state.apply(entry, offset)
        return state

    # --- the views ---------------------------------------------------------------------------------------------

    def _view(self, entry: Entry, offset: int) -> None:
        match entry:
            case f.NodeEnrolled() | f.NodeRevoked() | f.NodeLabelled():
                self._view_node(entry, offset)
            case f.BrokerAccount():
                if entry.line:
                    self.accounts[entry.user] = entry.line
                else:
                    self.accounts.pop(entry.user, None)
            case f.ApiKeySet():
                self.api_keys.put(entry.api_key)
            case f.InviteIssued() | f.InviteSpent() | f.InvitesForgotten():
                self._view_invite(entry)
            case f.ModelPushed():
                self.models.setdefault(entry.model, {})[entry.version] = entry
            case f.RolloutSet():
                self._view_rollout(entry)
            case f.PolicySet():
                self.policies[entry.model] = entry.policy
            case f.ImagePushed():
                self.images.setdefault((entry.kind, entry.version), {})[entry.classes] = entry
            case f.UpdateSet():
                self.updates.pop(entry.name, None)
                if not entry.forgets:
                    self.updates[entry.name] = entry
            case _:
                self._view_job(entry)

    def _view_job(
        self, entry: f.JobCreated | f.JobForgotten | f.JobAdvanced | f.JobPlaced | f.JobHeld | f.JobEnded
    ) -> None:
        match entry:
            case f.JobCreated():
                self.jobs[entry.job] = Job(entry)
            case f.JobForgotten():
                self.jobs.pop(entry.job, None)
                self.forgotten.add(entry.job)
            case _:
                job = self.jobs.get(entry.job)
                if job is not None:
                    self.jobs[entry.job] = _moved(job, entry)

    def _view_rollout(self, entry: f.RolloutSet) -> None:
        if not entry.region:
            self.rollouts[entry.model] = entry
        elif entry.forgets:
            self.regional.pop((entry.region, entry.model), None)
        else:
            self.regional[entry.region, entry.model] = entry

    def _view_invite(self, entry: f.InviteIssued | f.InviteSpent | f.InvitesForgotten) -> None:
        match entry:
            case f.InviteIssued():
                spent = self._live[f.CLOUD].get(("spent", entry.id))
                node = spent[1].node if spent and isinstance(spent[1], f.InviteSpent) else ""
                self.invites.issued(_record(entry, node))
            case f.InviteSpent():
                self.invites.spent(entry.id, entry.node)
            case f.InvitesForgotten():
                for invite in entry.ids:
                    self.invites.records.pop(invite, None)

    def _view_node(self, entry: f.NodeEnrolled | f.NodeRevoked | f.NodeLabelled, offset: int) -> None:
        node = entry.node
        known = self.nodes.get(node)
        enrolled, at = (known.enrolled, known.offset) if known else (None, 0)
        if isinstance(entry, f.NodeRevoked):
            self.revoked[node] = (offset, entry.serial)
            self.orders[node] = entry.order
        elif isinstance(entry, f.NodeLabelled):
            self._labels[node] = (offset, entry.labels)
        elif offset > at:
            enrolled, at = entry, offset
        if enrolled is None:
            return
        labelled = self._labels.get(node)
        labels = labelled[1] if labelled and labelled[0] > at else enrolled.labels
        self.nodes[node] = Node(enrolled, at, labels, revoked=False)
        if node in self.revoked and self.is_revoked(node):
            self.nodes[node] = Node(enrolled, at, labels, revoked=True)


def _moved(job: Job, entry: f.JobAdvanced | f.JobPlaced | f.JobHeld | f.JobEnded) -> Job:
    match entry:
        case f.JobAdvanced():
            return msgspec.structs.replace(job, advanced=entry)
        case f.JobPlaced():
            return msgspec.structs.replace(job, placed=entry)
        case f.JobHeld(held=held):
            return msgspec.structs.replace(job, held=held)
        case f.JobEnded():
            return msgspec.structs.replace(job, ended=entry)


def _record(entry: f.InviteIssued, spent_by: str) -> InviteRecord:
    return InviteRecord(
        id=entry.id,
        role=entry.role,
        secret_hash=entry.secret_hash,
        expires=entry.expires,
        region=entry.region,
        labels=entry.labels,
        spent_by=spent_by,
    )
