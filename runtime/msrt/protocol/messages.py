"""Every message that crosses a wire: frozen tagged structs in ONE union, each with a delivery class.

Transient: a deadline and its own retry, never resent by the session, never on disk.
Session: resent and deduplicated, in order, while both processes live.
Durable: kept on disk by its sender until the receiver has it on disk.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

__all__ = ["DeliveryClass", "Mark", "Message", "TensorSpec"]

Mark = bool | int | float | str
"""What an answer may be marked with: flat, so that the header of an answer is read the quick way (see wire)."""


class DeliveryClass(enum.IntEnum):
    """How hard the session tries. CONTROL messages drive the session itself and carry no sequence."""

    CONTROL = 0
    TRANSIENT = 1
    SESSION = 2
    DURABLE = 3


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    delivery: ClassVar[DeliveryClass] = DeliveryClass.TRANSIENT


class _Control(_Message, frozen=True):
    delivery: ClassVar[DeliveryClass] = DeliveryClass.CONTROL


class _Session(_Message, frozen=True):
    delivery: ClassVar[DeliveryClass] = DeliveryClass.SESSION


class _Durable(_Message, frozen=True):
    delivery: ClassVar[DeliveryClass] = DeliveryClass.DURABLE


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a node can be reached as a parent."""

    node: str
    """Node id."""
    link_key: bytes = b""
    """Its CURVE public key, 32 bytes; empty where the link has none."""
    zmq: str = ""
    """tcp://HOST:PORT"""
    mqtt: str = ""
    """mqtt://HOST:PORT or mqtts://HOST:PORT"""
    mqtt_fingerprint: str = ""
    """SHA-256 of the broker's certificate, hex; empty without TLS."""
    http: str = ""
    """http://HOST:PORT or https://HOST:PORT"""
    region: str = ""
    http_fingerprint: str = ""
    """SHA-256 of the certificate that https shows, hex; empty without, or where an authority vouches for it."""


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """One tensor that lies in a raw frame beside the message: C order, little endian."""

    name: str
    dtype: str
    """Open Inference Protocol name: FP32, INT8, INT64, BOOL, BYTES ..."""
    shape: tuple[int, ...]


# --- the session itself ------------------------------------------------------------------------------------


class Hello(_Control, frozen=True, tag="hello"):
    """Child to parent: who I am, and what I remember of our last session."""

    node: str
    boot: int
    """Random per process start; a changed one voids the session's unacknowledged messages."""
    certificate: bytes
    attempt: int = 0
    """Counts this process's sessions: a repeated one is the same greeting resent, a smaller one is stale."""
    session: int = 0
    """Id of the session to resume, 0 for none."""
    received: int = 0
    """Highest session-class sequence received in it, in order."""
    address: Parent | None = None
    """Where I listen, if I am a parent myself."""
    device_class: str = ""
    previous: str = ""
    """The parent I was with before, empty at the first join."""


class Welcome(_Control, frozen=True, tag="welcome"):
    """Parent to child: your lease."""

    node: str
    boot: int
    session: int
    resumed: bool
    epoch: int
    lease_s: float
    received: int = 0
    """Highest session-class sequence received from the child in a resumed session."""
    parents: tuple[Parent, ...] = ()
    """Where else to go, best first."""


class Refuse(_Control, frozen=True, tag="refuse"):
    """No, and why. The session closes."""

    code: str
    text: str
    hint: str = ""


class Heartbeat(_Control, frozen=True, tag="heartbeat"):
    """I live. Acknowledgements ride in the header."""

    reply: bool = False
    """Ask the other side to answer at once."""


class Fence(_Control, frozen=True, tag="fence"):
    """Parent to child: your lease was taken, your epoch is stale; say hello again."""

    epoch: int


class Bye(_Control, frozen=True, tag="bye"):
    """I leave on purpose."""

    reason: str = ""


class Enrol(_Control, frozen=True, tag="enrol"):
    """A node with an invite asks for a certificate. An edge relays it to the cloud."""

    invite: str
    secret: bytes
    identity: bytes
    """Ed25519 public key, 32 bytes."""
    link_key: bytes
    """X25519 (CURVE) public key, 32 bytes."""
    proof: bytes
    """Signature of (invite, link_key) by the identity."""
    name: str
    address: Parent | None = None


class Enrolled(_Control, frozen=True, tag="enrolled"):
    """The certificate, and where to go with it."""

    certificate: bytes
    cloud_identity: bytes
    parents: tuple[Parent, ...]
    mqtt_password: str = ""


class Parents(_Session, frozen=True, tag="parents"):
    """Parent to child: the list of parents changed; it takes the place of the welcome's."""

    parents: tuple[Parent, ...]
    """Where else to go, best first."""


# --- calls: a question with one answer ----------------------------------------------------------------------


class Call(_Session, frozen=True, tag="call"):
    """Ask the other side to run a named method."""

    id: int
    method: str
    params: dict[str, object] = {}
    timeout_ms: int = 30_000


class Return(_Session, frozen=True, tag="return"):
    """A call's result."""

    id: int
    result: object = None


class Failed(_Session, frozen=True, tag="failed"):
    """A call's error."""

    id: int
    code: str
    text: str
    hint: str = ""


# --- streams -------------------------------------------------------------------------------------------------


class StreamOpen(_Message, frozen=True, tag="s.open"):
    """Sender to receiver: a stream begins (resent until credit comes)."""

    stream: int
    """Chosen by the sender; the sender's side is part of the identity."""
    kind: str
    """artifact, update, snapshot, ..."""
    meta: dict[str, object] = {}
    size: int = -1
    """Bytes in all, -1 when it grows."""
    digest: str = ""
    """SHA-256 hex of the whole, empty when it grows (then the end carries it)."""
    offset: int = 0
    """Where the sender begins."""
    answers: int = 0
    """The id of the call that asked for this stream, 0 if none."""
    attempt: int = 0
    """One more after each reconnect; the credit for it says the same."""


class StreamCredit(_Message, frozen=True, tag="s.credit"):
    """Receiver to sender: I have everything below `offset`, you may send up to `limit`."""

    stream: int
    offset: int
    limit: int
    attempt: int = 0
    """Of the opening that this answers: credit of an earlier one is void."""


class StreamChunk(_Message, frozen=True, tag="s.chunk"):
    """One piece; its bytes are the frame beside it."""

    stream: int
    offset: int


class StreamEnd(_Message, frozen=True, tag="s.end"):
    """Sender: that was all."""

    stream: int
    size: int
    digest: str


class StreamDone(_Message, frozen=True, tag="s.done"):
    """Receiver: whole and verified."""

    stream: int


class StreamCancel(_Message, frozen=True, tag="s.cancel"):
    """Either side gives up."""

    stream: int
    from_sender: bool
    code: str
    text: str = ""


# --- inference -----------------------------------------------------------------------------------------------


class Infer(_Message, frozen=True, tag="infer"):
    """One or more requests for one model that ride together; each input's rows are concatenated along axis 0."""

    ids: tuple[int, ...]
    """One per request, chosen by the asker."""
    rows: tuple[int, ...]
    """Axis-0 rows of each request."""
    model: str
    inputs: tuple[TensorSpec, ...]
    version: int = 0
    """0 means: what is rolled out."""
    deadline_ms: int = 10_000
    """What is left when sent."""
    outputs: tuple[str, ...] = ()
    """Names wanted; empty means all."""
    trace: str = ""
    priority: int = 0
    """1 urgent, 0 normal, -1 background."""
    sequence: str = ""
    """Requests of one sequence go to one device, which keeps the model's state between them; such a one rides alone."""
    sequence_start: bool = False
    sequence_end: bool = False
    hops: int = 0
    """Masters that passed it on because they were full."""


class Inferred(_Message, frozen=True, tag="inferred"):
    """The answers to requests that rode together."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    model: str
    version: int
    variant: str
    """Name of its codec: see msrt.learning.compress."""
    device: str
    """Node name."""
    outputs: tuple[TensorSpec, ...]
    compute_us: int = 0
    queue_us: int = 0
    """What the batch waited on the device before it was computed."""
    depth: int = 0
    """Rows that waited there when it was answered: a fresh probe of its load."""
    marks: dict[str, Mark] = {}
    """What else the caller should know, such as that a smaller model answered."""


class InferFailed(_Message, frozen=True, tag="infer.failed"):
    """These requests got no answer, and why."""

    ids: tuple[int, ...]
    code: str
    text: str
    hint: str = ""
    retry_after_ms: int = 0


class InferCancel(_Message, frozen=True, tag="infer.cancel"):
    """Nobody waits for these any more."""

    ids: tuple[int, ...]


# --- models on devices -----------------------------------------------------------------------------------------


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model version a device should hold."""

    model: str
    version: int
    variant: str
    """fp32, int8, or measure: try both and report."""
    manifest: bytes
    """The model's signed manifest (see msrt.inference.bundle)."""
    signature: bytes
    serve: bool = True
    """False: load and warm, take no traffic by default (a canary's other half)."""


class Assign(_Session, frozen=True, tag="assign"):
    """Edge to device: all the models you should hold; what is not named may go."""

    generation: int
    models: tuple[Placement, ...]
    more: bool = False
    """The rest of this generation follows: what is not named here does not go yet."""


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one model version fares on a device."""

    model: str
    version: int
    variant: str
    state: str
    """fetching, loading, ready, failed."""
    error: str = ""
    batch: bool = False
    """Axis 0 is free: requests may ride together."""
    latency_us: dict[str, int] = {}
    """Measured time of one call by variant."""
    requests: int = 0
    failures: int = 0
    cold: bool = False
    """Ready, but not in memory: the next request waits until it is loaded again."""


class DeviceReport(_Session, frozen=True, tag="device.report"):
    """Device to edge: what is loaded and how it fares; sent on every change."""

    generation: int
    models: tuple[ModelState, ...]
    labels: dict[str, str] = {}
    sources: dict[str, str] = {}
    """Source name to state."""


class Load(_Message, frozen=True, tag="load"):
    """Node to parent, every few seconds: numbers for `status` and for placement."""

    values: dict[str, float]


class FleetReport(_Session, frozen=True, tag="fleet.report"):
    """Edge to cloud: its devices, in parts: changes soon, and everybody in turn (a sweep)."""

    position: dict[str, int]
    """Journal positions by scope that the edge has on disk."""
    devices: tuple[DeviceRecord, ...]
    values: dict[str, float] = {}
    sweep: int = 0
    """Number of the sweep of which this is a part; 0 with `last`: all in one report, without: only what changed."""
    part: int = 0
    """Of the sweep, from 0, without gaps."""
    last: bool = True
    """Who was named neither in this sweep nor in a report since it began is gone."""


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device as its edge sees it."""

    node: str
    name: str
    alive: bool
    device_class: str
    labels: dict[str, str]
    models: tuple[ModelState, ...]
    link: str = ""
    values: dict[str, float] = {}
    sources: dict[str, str] = {}


class ServedRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one model version answered at one edge since that edge started. Counts only grow; times are summed."""

    model: str
    version: int
    answered: int = 0
    failed: dict[str, int] = {}
    """Error code to requests whose callers were told so."""
    faults: int = 0
    """Requests that a device could not answer, whatever became of them afterwards."""
    batches: int = 0
    rows: int = 0
    """In those batches."""
    queue_us: int = 0
    compute_us: int = 0
    hits: int = 0
    """Of `answered`: by the result cache."""
    misses: int = 0
    elsewhere: int = 0
    """Of `answered`: by another master."""
    escalated: int = 0
    """Rows that a cascade sent to the larger model."""
    copies: int = 0
    """For this version, made by a shadow; none of them is in `answered`."""
    judged: int = 0
    """Of these, compared with the answer that was given."""
    disagreed: int = 0
    latency: dict[int, int] = {}
    """Times of the answered: histogram bucket (8 for each doubling of the microseconds) to count."""


class ServingReport(_Session, frozen=True, tag="serving.report"):
    """Edge to cloud: how models were served. The latest word on a version takes the place of earlier ones."""

    boot: int
    """Of the edge's process: with another one its counts began again."""
    rows: tuple[ServedRow, ...]
    """Versions of which something changed, at most 64 at a time."""


# --- the journal ---------------------------------------------------------------------------------------------


class Follow(_Session, frozen=True, tag="follow"):
    """Replica to master: send me what comes after these positions."""

    log: str
    """Log id, empty for a new replica."""
    epoch: int
    scopes: dict[str, int]
    """Scope (global or a region) to the last offset held."""


class JournalBlock(_Session, frozen=True, tag="journal.block"):
    """Signed entries of one scope; the payload is the frame beside it."""

    log: str
    epoch: int
    scope: str
    prev: int
    """Offset of the scope's last entry before this block."""
    first: int
    last: int
    signature: bytes


class FollowRefused(_Session, frozen=True, tag="follow.refused"):
    """The replica is ahead of its master, or of another log: it stops and says so."""

    text: str


# --- training --------------------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One version of the weights as what was added to the one before. Both are artifacts."""

    base: str
    """Digest of the weights before."""
    delta: str
    """Digest of the payload."""
    codec: str


class SecurePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """How devices mask their updates, so that an edge learns nothing but their sum."""

    clip: float
    """Largest Euclidean norm of an update; a device shortens a longer one itself."""
    span: float = 0.0
    """Largest magnitude of one parameter; 0: as large as `clip`."""
    bits: int = 32
    """Of a masked parameter: 16 or 32."""
    threshold: float = 0.5
    """Share of a device's neighbours that bring its secrets back; more than half in any case."""
    dropouts: float = 0.2
    """Share of a region's devices that a round must survive the loss of."""
    neighbours: int = 0
    """Devices with which one shares masks; 0: as many as `dropouts` asks for."""
    opening: int = 0
    """How often this round was opened before, and given up."""
    session: str = ""
    """Edge to device: the name of this exchange of keys, unique to job, round, step, process of the edge and try."""


class Secured(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an update says of its masks."""

    session: str = ""
    """Of a device's update: the exchange of keys that it is masked for."""
    samples: int = 0
    """Of a region's sum: of all its nodes together, where nobody knows a single one's."""


class PrivatePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one update tells is hidden by noise."""

    noise: float = 0.0
    """A device adds noise of this standard deviation, over the job's clip; 0: it adds none, the cloud does."""
    releases: int = 0
    """So many times may it send what it noised; 0: no end."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job does its rounds."""

    upward: str = ""
    """Codec of a region's sum; empty: that of a device's update."""
    since: int = 0
    """Updates of rounds from this one on are still welcome, alone; 0: of this round only."""
    alone: bool = False
    """Edges make no sum: every update goes up as it is, and the cloud takes no sums."""
    deviations: float = 0.0
    """Of its nodes' times, beyond which a region does not wait for one; 0: it waits while there is time."""
    steps: int = 1
    """A region does so many rounds of its own between two of the cloud's."""
    step: int = 0
    """Edge to device: which of them, 0 .. steps - 1."""
    clip: float = 0.0
    """A node's update that is longer (L2) counts as one of this length in its direction; 0: none is."""
    work_s: float = 0.0
    """After so many seconds of a round a node sends what it has done of its epochs; 0: it does them all."""
    partial: bool = False
    """An edge tells its devices the `work_s` that follows from how long it will wait."""
    secure: SecurePlan | None = None
    """Updates are masked; None: they are not."""
    rule: str = ""
    """What a region makes of its devices' updates (see msrt.learning.rules); empty: their weighted mean."""
    quorum: float = 0.5
    """Share of its devices that a region waits for before it loses patience. Where it has a rule, who comes later does
    not count."""
    private: PrivatePlan | None = None
    """What one update tells is hidden, and none refused for how long it is; None: it is not."""


class RoundOpen(_Session, frozen=True, tag="round.open"):
    """Train one round. The artifacts are fetched by digest from the parent."""

    job: str
    round: int
    bundle: str
    """Digest of the job's zip."""
    signature: bytes
    """Of the bundle's digest, by the cloud."""
    weights: str
    """Digest of the global weights."""
    deadline_s: float
    """What is left when sent."""
    participants: dict[str, int] = {}
    """Node id to its index among all: those that are the receiver's. More of them may follow in the same words."""
    count: int = 0
    """Of all that could take part, wherever they are; a round may draw some of them."""
    compression: str = "int8"
    """Codec of a device's update."""
    max_samples: int = 0
    """No device weighs more than so many samples; 0: no bound."""
    chain: tuple[Change, ...] = ()
    """Changes that lead from versions that the receiver may have to `weights`, oldest first."""
    plan: Plan = Plan()


class RoundClosed(_Session, frozen=True, tag="round.closed"):
    """The round's aggregate is checkpointed: senders may forget these updates."""

    job: str
    round: int
    included: tuple[str, ...]
    """Of the receiver's participants those whose update is in the aggregate."""
    state: str = "running"
    """running, paused, finished, failed or stopped."""
    late: dict[str, int] = {}
    """Of the receiver's participants those whose update of an earlier round is in it: node id to that round."""
    since: int = 0
    """Updates of rounds from this one on that are not in it may be sent again; 0: none may."""


class UpdateMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels as the meta of an update stream. One node's update, or a region's sum."""

    job: str
    round: int
    nodes: dict[str, int]
    """Node id to samples. One entry from a device; all contributors from an edge."""
    first_parent: str
    """node/boot of the parent that got it first: only that one may add it into a sum."""
    encoding: str
    """Name of its codec: see msrt.learning.compress."""
    size: int
    """Parameters."""
    metrics: dict[str, float] = {}
    """Sample-weighted: loss, accuracy, seconds."""
    error: str = ""
    """Set when a node could not train: no bytes follow."""
    is_sum: bool = False
    """A region's weighted mean of all of `nodes`; `first_parent` is the edge that made it."""
    step: int = 0
    """Of the region's own rounds within this one."""
    notes: bytes = b""
    """With a sum: loss, accuracy and seconds of each of `nodes` as float32, in their order."""
    secure: Secured = Secured()
    """Where updates are masked: for which exchange of keys, or how many samples a sum has in all."""
    summed_by: str = ""
    """Of a sum: node/boot of the master between here and the cloud that got it first, which alone may add it into a sum
    of its own; empty: it is for the cloud."""


class TrainProgress(_Message, frozen=True, tag="train.progress"):
    """Edge to cloud: how far a round is."""

    job: str
    round: int
    reported: int
    expected: int
    missing: tuple[str, ...] = ()
    """Ids of the nodes that are waited for, once they are few."""
    faults: dict[str, str] = {}
    """Node id to why it cannot train, of the first of them."""


# --- the parameter server ----------------------------------------------------------------------------------------


class ShardsOpen(_Session, frozen=True, tag="shards.open"):
    """Edge to device: a job whose model lies in shards on servers (edges); pull, compute and push until it is over."""

    job: str
    generation: int
    """Of the owners: what is said in an earlier one is void."""
    bundle: str
    """Digest of the job's zip."""
    signature: bytes
    """Of the bundle's digest, by the cloud."""
    owners: tuple[str, ...]
    """Node id of each shard's server; the flat vector is cut into as many ranges."""
    index: int = 0
    """Of the receiver among the workers."""
    count: int = 1


class Push(_Message, frozen=True, tag="push"):
    """Worker to server, through its edge: what it computed [a payload for each of `shards`], or that it wants to go on.

    The meta of a stream `push` where the payloads fit no packet; they then follow each other in it.
    """

    job: str
    generation: int
    server: str
    worker: str
    boot: int
    """Of the worker's process: another one voids what an earlier one says."""
    clock: int = -1
    """It has done with this one, and asks to go on; -1: with none."""
    join: bool = False
    """From now on this boot speaks for the worker."""
    shards: tuple[int, ...] = ()
    """All of them that the server has, with payloads or without."""
    encoding: str = ""
    """Codec of the payloads; empty: there are none."""
    samples: int = 0
    """In the payloads."""
    data: int = 0
    """Samples that the worker has in all."""
    turn: int = 0
    """The server's, when it gave the weights on which this was computed."""
    round: int = 0
    """Newest one that any server is in."""
    metrics: dict[str, float] = {}
    """train_loss; at the beginning of a round also judged (test samples), loss, accuracy."""
    error: str = ""
    """Why the worker cannot train."""


class Pulled(_Message, frozen=True, tag="pulled"):
    """Server to worker, through its edge: an answer to a `push` [with go: the weights of each of `shards`].

    The meta of a stream `pull` where the weights fit no packet.
    """

    job: str
    generation: int
    server: str
    worker: str
    boot: int
    clock: int
    """Of the push."""
    said: str
    """go; wait: it is counted, ask later; again: the payload is not here; join: say that you are new here; moved:
    the shards are elsewhere; over: the job is, or is paused."""
    enter: int = 0
    """Go on with this clock."""
    turn: int = 0
    """Updates of the server so far."""
    round: int = 0
    shards: tuple[int, ...] = ()
    encoding: str = ""
    """Codec of the weights."""


class RoundNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a round's pushes said to one server."""

    round: int
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    bytes_up: int = 0
    """Payloads of pushes, and of the weights that were pulled."""
    bytes_down: int = 0
    samples: dict[str, int] = {}
    """Worker to samples that it pushed."""
    waited: dict[str, int] = {}
    """Worker to how often it waited for others."""


class ShardMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels as the meta of a `shard` stream, from an edge to the cloud: a shard at the end of a round."""

    job: str
    generation: int
    round: int
    shard: int
    notes: tuple[RoundNote, ...] = ()
    """Of this round and of those before that the cloud has not checkpointed."""


class WorkersHere(_Message, frozen=True, tag="workers.here"):
    """Edge to edge: these workers of a job live, as far as their edge knows; said every second."""

    job: str
    workers: tuple[str, ...]


# --- secure aggregation: keys, shares and what is asked for them (see msrt.learning.secure_aggregation) --------------


class SecureKeys(_Session, frozen=True, tag="secure.keys"):
    """Device to edge: my fresh public keys for one exchange, signed by my identity."""

    job: str
    session: str
    certificate: bytes
    cipher: bytes
    """X25519, 32 bytes: shares to me are sealed with it."""
    mask: bytes
    """X25519, 32 bytes: masks are agreed on with it."""
    commitment: bytes
    """SHA-256 of the seed of my own mask."""
    signature: bytes
    """Of session, cipher, mask and commitment, by the identity that the certificate names."""


class SecureMember(msgspec.Struct, frozen=True, array_like=True):
    """One device of an exchange, as its neighbours are told of it."""

    index: int
    certificate: bytes
    cipher: bytes
    mask: bytes
    commitment: bytes
    signature: bytes


class SecureRoster(_Session, frozen=True, tag="secure.roster"):
    """Edge to device: who you are in this exchange, and your neighbours in it."""

    job: str
    session: str
    index: int
    count: int
    """Of all devices in it: their sum must not overflow."""
    neighbours: tuple[SecureMember, ...]


class SecureShare(msgspec.Struct, frozen=True, array_like=True):
    """A share, sealed or not."""

    index: int
    """Of the device that it is for, where a device sends it sealed; else of the one whose secret it is of."""
    data: bytes


class SecureShares(_Session, frozen=True, tag="secure.shares"):
    """Device to edge: shares of my secrets, sealed for each neighbour. Edge to device: those for you, all there are."""

    job: str
    session: str
    shares: tuple[SecureShare, ...]


class SecureUnmask(_Session, frozen=True, tag="secure.unmask"):
    """Edge to device: which of your neighbours are in the sum, and which dropped out after they had shared."""

    job: str
    session: str
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


class SecureReveal(_Session, frozen=True, tag="secure.reveal"):
    """Device to edge: my shares of the survivors' own masks, and of the keys of those who dropped out."""

    job: str
    session: str
    seeds: tuple[SecureShare, ...]
    keys: tuple[SecureShare, ...]


class SecureOut(_Session, frozen=True, tag="secure.out"):
    """Either way: the device takes no part in this exchange, or no longer, and why."""

    job: str
    session: str
    reason: str


# --- events ----------------------------------------------------------------------------------------------------


class Event(_Durable, frozen=True, tag="event"):
    """A reading turned into a finding, by a model on a device."""

    node: str
    seq: int
    """Per node, without gaps over restarts: (node, seq) is the event's id."""
    name: str
    """The device's name."""
    source: str
    model: str
    version: int
    wall: float
    """Seconds since 1970, the device's clock."""
    data: dict[str, object]
    region: str = ""


Message = (
    Hello | Welcome | Refuse | Heartbeat | Fence | Bye | Enrol | Enrolled | Parents
    | Call | Return | Failed
    | StreamOpen | StreamCredit | StreamChunk | StreamEnd | StreamDone | StreamCancel
    | Infer | Inferred | InferFailed | InferCancel
    | Assign | DeviceReport | Load | FleetReport | ServingReport
    | Follow | JournalBlock | FollowRefused
    | RoundOpen | RoundClosed | TrainProgress
    | SecureKeys | SecureRoster | SecureShares | SecureUnmask | SecureReveal | SecureOut
    | ShardsOpen | Push | Pulled | WorkersHere
    | Event
)  # fmt: skip
"""All of them: what is not here cannot be said."""
