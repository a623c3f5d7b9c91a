"""What can happen on a server of a job's shards and what can follow. `ShardServer` decides, a shell performs in order.

Keys are the shell's handles for payloads that are whole and went through `aggregate.check`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from msrt.learning.parameter_server.tally import Tally
from msrt.protocol.messages import Push

__all__ = [
    "Action", "Add", "Again", "Answer", "Apply", "Arrived", "Drop", "Event", "Here", "Keep", "Left", "Mark", "Save",
    "Snapshot", "Step", "Tick",
]  # fmt: skip


class _Event(msgspec.Struct, frozen=True): ...


class _Action(msgspec.Struct, frozen=True): ...


class Arrived(_Event, frozen=True):
    """A worker's push; without a key it brings no payload and only asks."""

    push: Push
    key: str = ""
    fault: str = ""
    """What is wrong with its payload."""


class Here(_Event, frozen=True):
    """These workers live: their edge says so."""

    workers: tuple[str, ...]


class Left(_Event, frozen=True):
    """A worker said goodbye, or its session is over."""

    worker: str


class Tick(_Event, frozen=True):
    """Time passed."""


class Save(_Event, frozen=True):
    """The shards go to this server's own disk."""


class Again(_Event, frozen=True):
    """The snapshot of the last round was lost on its way up."""


class Mark(msgspec.Struct, frozen=True):
    """Where a server is: what a snapshot says beside the vectors."""

    progress: float
    turn: int
    applied: dict[int, dict[str, int]]
    """Shard to worker to the last clock that is in it."""


class Add(_Action, frozen=True):
    """Synchronous: add the payload to the clock's sum of these shards, with this weight; then it may go."""

    key: str
    shards: tuple[int, ...]
    weight: float


class Step(_Action, frozen=True):
    """Synchronous: move every shard by the mean of its sum, at this share of the way to the last round."""

    done: float


class Apply(_Action, frozen=True):
    """Move these shards by the payload alone; then it may go."""

    key: str
    shards: tuple[int, ...]
    scale: float
    """Of the rate: this worker's share of all, less for a stale one."""
    done: float


class Drop(_Action, frozen=True):
    """The payload is not used: counted before, too stale, not fit, or nothing is trained any more."""

    key: str
    why: str


class Answer(_Action, frozen=True):
    """Tell a worker. `said` is go (with the weights), wait, again, join or over: see `Pulled`."""

    push: Push
    said: str
    enter: int = 0
    turn: int = 0
    round: int = 0


class Keep(_Action, frozen=True):
    """Write the shards as they are now to disk."""

    mark: Mark


class Snapshot(_Action, frozen=True):
    """That round is over: the shards as they are now go up, with what the round's pushes said."""

    round: int
    mark: Mark
    tally: Tally


Event: TypeAlias = Arrived | Here | Left | Tick | Save | Again
Action: TypeAlias = Add | Step | Apply | Drop | Answer | Keep | Snapshot
