"""Rounds: opened, answered with an update, closed."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Session, Transient

__all__ = [
    "Change", "Plan", "PrivatePlan", "RoundClosed", "RoundOpen", "SecurePlan", "Secured", "TrainProgress",
    "UpdateMeta",
]  # fmt: skip


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


class RoundOpen(Session, frozen=True, tag="round.open"):
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
    participants: dict[str, int] = msgspec.field(default_factory=dict)
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
    checksum: str = ""
    """Of the elements of `weights` (msrt.protocol.checksum), for who follows `chain`, or has them for itself alone;
    empty: their digest tells."""
    checksums: bool = False
    """The sender takes updates whose streams carry a checksum in place of a digest."""


class RoundClosed(Session, frozen=True, tag="round.closed"):
    """The round's aggregate is checkpointed: senders may forget these updates."""

    job: str
    round: int
    included: tuple[str, ...]
    """Of the receiver's participants those whose update is in the aggregate."""
    state: str = "running"
    """running, paused, finished, failed or stopped."""
    late: dict[str, int] = msgspec.field(default_factory=dict)
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
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
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


class TrainProgress(Transient, frozen=True, tag="train.progress"):
    """Edge to cloud: how far a round is."""

    job: str
    round: int
    reported: int
    expected: int
    missing: tuple[str, ...] = ()
    """Ids of the nodes that are waited for, once they are few."""
    faults: dict[str, str] = msgspec.field(default_factory=dict)
    """Node id to why it cannot train, of the first of them."""
