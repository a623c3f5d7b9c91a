"""What happens to a dispatcher (events) and what it asks its shell to do (actions)."""

from __future__ import annotations

import enum

import msgspec

from msrt.buffers import Buffer
from msrt.dispatch.decisions import Entry
from msrt.errors import MsrtError
from msrt.protocol.messages import Infer, InferFailed, Inferred, ModelState, TensorSpec

__all__ = [
    "Action",
    "Answered",
    "Buffer",
    "Cancel",
    "Event",
    "Failed",
    "ModelsReady",
    "Recall",
    "Record",
    "Reject",
    "Reply",
    "Request",
    "Send",
    "State",
    "Submit",
    "Tick",
    "VersionTable",
    "WorkerDown",
    "WorkerUp",
]

"""One-byte items: `len` is its size in bytes."""


class State(enum.IntEnum):
    """Where a request is."""

    NEW = 0
    QUEUED = 1
    FLYING = 2
    SETTLED = 3


class Request(msgspec.Struct, eq=False):
    """One caller's question. The caller fills what stands above the line and keeps its hands off the rest."""

    model: str
    inputs: tuple[TensorSpec, ...]
    frames: tuple[Buffer, ...]
    """Raw bytes of each input, C order, little endian."""
    deadline: float
    """In the dispatcher's time."""
    token: object = None
    """Whatever the shell needs to hand the answer back."""
    version: int = 0
    """0: the one that the version table says."""
    outputs: tuple[str, ...] = ()
    """Names wanted; empty means all."""
    trace: str = ""
    priority: int = 0
    """1 urgent, 0 normal, -1 background."""
    sequence: str = ""
    """It goes where the sequence lives, and rides alone."""
    sequence_start: bool = False
    sequence_end: bool = False
    hedgeable: bool = True
    """A second worker may be asked if the first is late."""
    hops: int = 0
    """Masters that passed it on: whoever gets it passes it on so much less."""
    copy: bool = False
    """For a candidate in the shadow: nobody's request, and not counted as one."""

    # --- the dispatcher's own -----------------------------------------------------------------------------
    id: int = 0
    """Given at Submit; what `Infer.ids` carries."""
    rows: int = 1
    size: int = 0
    since: float = 0.0
    """When it was submitted."""
    expected: float = 0.0
    """Seconds that it should take, as it was let in to wait; 0: it had not to, or nothing is known."""
    queued: float = 0.0
    """When it began to wait, this time."""
    attempts: int = 0
    """How often it was sent."""
    tried: tuple[str, ...] = ()
    """Node ids it was sent to."""
    alone: bool = False
    """A batch it rode in failed: it may be the reason, so it rides alone."""
    doubted: str = ""
    """The worker that answered NaN, if one did: another is asked before that is believed."""
    hedged: bool = False
    state: State = State.NEW
    place: object = None
    """The pool it waits or was sent from."""


# --- events ------------------------------------------------------------------------------------------------


class Submit(msgspec.Struct, gc=False, eq=False):
    """Requests that arrived together. Several in one event ride together from the start."""

    requests: tuple[Request, ...] | list[Request]


class Cancel(msgspec.Struct, gc=False, eq=False):
    """Nobody waits for this request any more: it is forgotten without a reply."""

    request: Request


class Answered(msgspec.Struct, gc=False, eq=False):
    """A worker's answer and the frames beside it."""

    worker: str
    message: Inferred
    frames: tuple[Buffer, ...] | list[Buffer]


class Failed(msgspec.Struct, gc=False, eq=False):
    """A worker could not, or the link would not take a Send (then the shell makes up the message)."""

    worker: str
    message: InferFailed


class WorkerUp(msgspec.Struct, frozen=True):
    """A worker's session is up; it has nothing in flight. `limit`: bytes of frames that its link takes in a packet."""

    worker: str
    limit: int = 1_000_000


class WorkerDown(msgspec.Struct, frozen=True):
    """A worker's session is gone: what it had in flight goes elsewhere."""

    worker: str


class ModelsReady(msgspec.Struct, frozen=True):
    """All that a worker holds (`DeviceReport.models`); only those in state "ready" get requests."""

    worker: str
    models: tuple[ModelState, ...]


class VersionTable(msgspec.Struct, frozen=True):
    """Which version answers a request that names none. The candidate gets a share of the requests, or all that go to
    some workers; stable and candidate both 0 forget the model."""

    model: str
    stable: int
    candidate: int = 0
    share: float = 0.0
    workers: frozenset[str] = frozenset()


class Tick(msgspec.Struct, frozen=True):
    """`Dispatcher.next_deadline()` has come."""


# --- actions -----------------------------------------------------------------------------------------------


class Send(msgspec.Struct, gc=False, eq=False):
    """Send this batch to that worker; if the link refuses, come back with Failed and its code,
    "disconnected" or "overloaded"."""

    worker: str
    message: Infer
    frames: tuple[Buffer, ...]


class Recall(msgspec.Struct, gc=False, eq=False):
    """Tell a worker (InferCancel) that nobody waits for these any more."""

    worker: str
    ids: tuple[int, ...]


class Reply(msgspec.Struct, gc=False, eq=False):
    """The answer of one request: exactly its own rows."""

    request: Request
    answer: Inferred
    """Of the whole batch: read version, variant, device, compute_us; its ids, rows and outputs are the batch's."""
    outputs: tuple[TensorSpec, ...]
    frames: tuple[Buffer, ...] | list[Buffer]
    """Slices of the batch's frames, not copies."""


class Reject(msgspec.Struct, gc=False, eq=False):
    """No answer, and why."""

    request: Request
    error: MsrtError


class Record(msgspec.Struct, gc=False, eq=False):
    """Write this down; only where `Config.record_share` is set."""

    entry: Entry


Event = Submit | Cancel | Answered | Failed | WorkerUp | WorkerDown | ModelsReady | VersionTable | Tick
Action = Send | Recall | Reply | Reject | Record
