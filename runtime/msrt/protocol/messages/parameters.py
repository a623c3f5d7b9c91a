"""The parameter server."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Session, Transient

__all__ = ["Pulled", "Push", "RoundNote", "ShardMeta", "ShardsOpen", "WorkersHere"]


class ShardsOpen(Session, frozen=True, tag="shards.open"):
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


class Push(Transient, frozen=True, tag="push"):
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
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    """train_loss; at the beginning of a round also judged (test samples), loss, accuracy."""
    error: str = ""
    """Why the worker cannot train."""


class Pulled(Transient, frozen=True, tag="pulled"):
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
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    bytes_up: int = 0
    """Payloads of pushes, and of the weights that were pulled."""
    bytes_down: int = 0
    samples: dict[str, int] = msgspec.field(default_factory=dict)
    """Worker to samples that it pushed."""
    waited: dict[str, int] = msgspec.field(default_factory=dict)
    """Worker to how often it waited for others."""


class ShardMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels as the meta of a `shard` stream, from an edge to the cloud: a shard at the end of a round."""

    job: str
    generation: int
    round: int
    shard: int
    notes: tuple[RoundNote, ...] = ()
    """Of this round and of those before that the cloud has not checkpointed."""


class WorkersHere(Transient, frozen=True, tag="workers.here"):
    """Edge to edge: these workers of a job live, as far as their edge knows; said every second."""

    job: str
    workers: tuple[str, ...]
