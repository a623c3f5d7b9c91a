"""What the journal can say: frozen tagged facts in ONE union.

A fact has a key: a later fact with the same key replaces the earlier one, which is what lets a snapshot keep only the
living ones. It has a scope: who follows it. Offsets count over all scopes, so facts of different scopes may reach a
replica in any order; no fold may depend on that order (see `state.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from msrt.dispatch.policy import ModelPolicy
from msrt.errors import FrameTooLarge, MalformedFrame
from msrt.journal.fact import CLOUD, GLOBAL, Fact, Key
from msrt.journal.updates import ImagePushed, UpdateSet
from msrt.protocol import wire
from msrt.protocol.messages import Change
from msrt.trust.api_keys import ApiKey

__all__ = [
    "CLOUD",
    "ENTRY_LIMIT",
    "GLOBAL",
    "ApiKeySet",
    "BrokerAccount",
    "Entry",
    "ImagePushed",
    "InviteIssued",
    "InviteSpent",
    "InvitesForgotten",
    "JobAdvanced",
    "JobCreated",
    "JobEnded",
    "JobForgotten",
    "JobHeld",
    "JobPlaced",
    "Key",
    "ModelPushed",
    "NodeEnrolled",
    "NodeLabelled",
    "NodeRevoked",
    "PolicySet",
    "RolloutSet",
    "UpdateSet",
    "pack_entry",
    "unpack_entry",
]

ENTRY_LIMIT: Final = 192 << 10
"""Largest packed entry: a block with one such entry still fits a packet."""


class NodeEnrolled(Fact, frozen=True, tag="node.enrolled"):
    """A node got a certificate. A device is its region's affair, all others are everyone's."""

    node: str
    role: str
    name: str
    region: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    identity: bytes = b""
    link_key: bytes = b""
    serial: int = 0
    """Of the certificate."""
    invite: str = ""
    wall: float = 0.0
    board: str = ""
    """Serial number of the board, as it said when it came."""

    @property
    def key(self) -> Key:
        return ("node", self.node)

    @property
    def scope(self) -> str:
        return self.region if self.role == "device" and self.region else GLOBAL


class NodeRevoked(Fact, frozen=True, tag="node.revoked"):
    """A node's certificates are void. Global: a device may turn up at any edge."""

    node: str
    serial: int = 0
    """Certificates up to this serial; 0: all that were issued before this entry."""
    reason: str = ""
    wall: float = 0.0
    order: bytes = b""
    """The cloud's signature over the node's id: whoever sends it away hands it on, and the node wipes itself."""

    @property
    def key(self) -> Key:
        return ("revoked", self.node)


class NodeLabelled(Fact, frozen=True, tag="node.labelled"):
    """The operator's labels of a node, whole: they replace those it enrolled with."""

    node: str
    labels: dict[str, str]
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("labels", self.node)


class BrokerAccount(Fact, frozen=True, tag="broker.account"):
    """Who may log in at an edge's MQTT broker: an enrolled device, or the holder of an open invite. Global: a device
    whose edges are all gone turns up in another region."""

    user: str
    """A node id, or invite-ID."""
    line: str
    """As it stands in mosquitto's password file, without the user: a salted hash. Empty: no longer."""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("account", self.user)


class ApiKeySet(Fact, frozen=True, tag="api_key.set"):
    """An API key was made or revoked; the key itself is nowhere but with its holder. Global: it opens every edge."""

    api_key: ApiKey
    said_by: str = ""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("api_key", self.api_key.name)


class InviteIssued(Fact, frozen=True, tag="invite.issued"):
    """An invite was made; the secret itself is nowhere but in the string."""

    id: str
    role: str
    secret_hash: bytes
    expires: float
    region: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    issued_by: str = ""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("invite", self.id)

    @property
    def scope(self) -> str:
        return CLOUD


class InviteSpent(Fact, frozen=True, tag="invite.spent"):
    """A node was let in with it."""

    id: str
    node: str
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("spent", self.id)

    @property
    def scope(self) -> str:
        return CLOUD


class InvitesForgotten(Fact, frozen=True, tag="invites.forgotten"):
    """Invites that expired long ago."""

    ids: tuple[str, ...]

    @property
    def key(self) -> Key:
        return ("invites.forgotten",)

    @property
    def scope(self) -> str:
        return CLOUD

    @property
    def forgets(self) -> tuple[Key, ...]:
        return tuple((kind, invite) for invite in self.ids for kind in ("invite", "spent"))


class ModelPushed(Fact, frozen=True, tag="model.pushed"):
    """A model version is in the registry."""

    model: str
    version: int
    manifest: bytes
    """See msrt.inference.bundle."""
    signature: bytes
    report: dict[str, object] = msgspec.field(default_factory=dict)
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("model", self.model, str(self.version))


class RolloutSet(Fact, frozen=True, tag="rollout.set"):
    """What version of a model should run where."""

    model: str
    version: int
    previous: int = 0
    """What runs where the canary does not, and what a rollback returns to; 0: nothing."""
    selector: str = ""
    canary: str = ""
    """A region, a share such as 20%, or empty."""
    state: str = "live"
    """canary, live, rolled_back, withdrawn, or, of one region, ended: the tree's rollout holds there again."""
    reason: str = ""
    wall: float = 0.0
    region: str = ""
    """Said of this region alone, over what is said of the tree; empty: of the tree."""
    traffic: float = 0.0
    """While it is a canary: the share of the requests that it answers, whichever device they go to; 0: all of those
    that go to the canary's devices."""
    began: float = 0.0
    """Wall clock of the operator's word, whatever became of it since."""

    @property
    def key(self) -> Key:
        return ("rollout", self.model, self.region) if self.region else ("rollout", self.model)

    @property
    def scope(self) -> str:
        return self.region or GLOBAL

    @property
    def forgets(self) -> tuple[Key, ...]:
        return (self.key,) if self.state == "ended" else ()


class PolicySet(Fact, frozen=True, tag="policy.set"):
    """How a model is served, whole: it replaces what was said before."""

    model: str
    policy: ModelPolicy
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("policy", self.model)


class JobCreated(Fact, frozen=True, tag="job.created"):
    """A training job was accepted."""

    job: str
    bundle: str
    """Digest of the zip."""
    signature: bytes
    config: dict[str, object] = msgspec.field(default_factory=dict)
    created_by: str = ""
    wall: float = 0.0
    cause: str = ""
    """Why it was started, where no operator did: see [trigger] of job.toml."""
    after: str = ""
    """The job whose weights it starts from; empty: from fresh ones."""
    start: str = ""
    """Digest of those weights."""
    events: int = 0
    """Events that had come of its trigger's model, ever, when it was created."""
    spent: tuple[tuple[float, float, int, int], ...] = ()
    """Of a private job: noise, sampling rate, steps a round and rounds of the jobs that it goes on from."""

    @property
    def key(self) -> Key:
        return ("job", self.job)


class JobAdvanced(Fact, frozen=True, tag="job.advanced"):
    """A round is checkpointed."""

    job: str
    round: int
    weights: str
    """Digest of the global weights after it."""
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    included: tuple[str, ...] = ()
    wall: float = 0.0
    served: str = ""
    """Digest of the weights that the next round starts from, where they travel compressed; empty: `weights`."""
    older: tuple[str, ...] = ()
    """Digests of weights before that are still on disk, newest first."""
    chain: tuple[Change, ...] = ()
    """Changes that lead to `served`, oldest first."""
    memory: str = ""
    """Digest of the server optimiser's state; empty: it has none."""
    counted: str = ""
    """Where late updates count: digest of the newest round that was counted of each node, as JSON."""

    @property
    def key(self) -> Key:
        return ("job.advanced", self.job)


class JobHeld(Fact, frozen=True, tag="job.held"):
    """An operator pauses a job, or lets it go on. Of an ended job: its trigger."""

    job: str
    held: bool
    said_by: str = ""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("job.held", self.job)


class JobPlaced(Fact, frozen=True, tag="job.placed"):
    """Of a parameter server's job: which edge serves which shard of the model, and who works on it."""

    job: str
    generation: int
    """Grows with every other set of owners: what was said in an earlier one is void."""
    owners: tuple[str, ...]
    """Node id of an edge for each shard."""
    workers: dict[str, int] = msgspec.field(default_factory=dict)
    """Node id of a device to its index; whoever was in it keeps its index."""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("job.placed", self.job)


class JobEnded(Fact, frozen=True, tag="job.ended"):
    """A job will not go on."""

    job: str
    state: str
    """finished, failed or stopped."""
    reason: str = ""
    wall: float = 0.0

    @property
    def key(self) -> Key:
        return ("job.ended", self.job)


class JobForgotten(Fact, frozen=True, tag="job.forgotten"):
    """An ended job leaves the lists; its checkpoints may go."""

    job: str

    @property
    def key(self) -> Key:
        return ("job.forgotten", self.job)

    @property
    def forgets(self) -> tuple[Key, ...]:
        return tuple((kind, self.job) for kind in ("job", "job.advanced", "job.placed", "job.held", "job.ended"))


Entry = (
    NodeEnrolled | NodeRevoked | NodeLabelled | BrokerAccount | ApiKeySet
    | InviteIssued | InviteSpent | InvitesForgotten
    | ModelPushed | RolloutSet | PolicySet
    | JobCreated | JobAdvanced | JobPlaced | JobHeld | JobEnded | JobForgotten
    | ImagePushed | UpdateSet
)  # fmt: skip
"""All of them."""


_decode: Final = msgspec.msgpack.Decoder(Entry).decode


def pack_entry(entry: Entry) -> bytes:
    """An entry's bytes, proved readable: one that a replica refused would stop every edge at once.

    Raises FrameTooLarge, CallerError, MalformedFrame.
    """
    data = wire.pack(entry)
    if len(data) > ENTRY_LIMIT:
        raise FrameTooLarge(len(data), ENTRY_LIMIT, "journal entry")
    wire.unpack(data, Entry, limit=ENTRY_LIMIT)  # type: ignore[arg-type]
    return data


def unpack_entry(data: bytes) -> Entry:
    """Read what `pack_entry` made: bytes of our own disk, or of a block whose signature was checked.

    The typed decoder is thirty times faster than the wire's reader, which matters to an edge that catches up; nothing
    that the cloud has not signed (and read strictly before) comes as far as here. Raises MalformedFrame.
    """
    try:
        entry: Entry = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFrame(f"a journal entry cannot be read: {error}", hint="upgrade msrt") from error
    return entry
