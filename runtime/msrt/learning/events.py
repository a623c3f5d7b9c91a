"""What can happen in a training round and what can follow from it. `rounds` decides, a shell performs in order.

Keys are the shell's handles for payloads that are whole and went through `aggregate.check`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from msrt.protocol.messages import UpdateMeta

__all__ = [
    "Abandon", "Add", "Arrived", "Closed", "Drop", "Event", "Finish", "Forget", "Forward", "Hold", "Joined", "Left",
    "Lost", "Refuse", "RoundAction", "SendSum", "Tell", "Tick",
]  # fmt: skip


class _Event(msgspec.Struct, frozen=True): ...


class _Action(msgspec.Struct, frozen=True): ...


# --- what happens --------------------------------------------------------------------------------------------


class Arrived(_Event, frozen=True):
    """An update is whole; `fault` says what `aggregate.check` found wrong with it."""

    key: str
    meta: UpdateMeta
    norm: float = 0.0
    fault: str = ""


class Joined(_Event, frozen=True):
    """A participant is (again) among the living: on an edge, one of its own devices."""

    node: str


class Left(_Event, frozen=True):
    """A participant went away; do not wait for it once the quorum is met."""

    node: str


class Lost(_Event, frozen=True):
    """Edge only: what was added never becomes a sum, for the masks on it cannot be taken off."""

    reason: str


class Closed(_Event, frozen=True):
    """Edge only: the cloud checkpointed the round, or gave it up."""


class Tick(_Event, frozen=True):
    """Time passed: see `wake`."""


# --- what to do -----------------------------------------------------------------------------------------------


class Add(_Action, frozen=True):
    """Add this payload to the running sum with this weight (samples); then it may be forgotten."""

    key: str
    weight: float
    scale: float = 1.0
    """Of the update's own length, where it is clipped."""


class Forward(_Action, frozen=True):
    """Edge: send this update up alone, meta unchanged; keep it until `Forget`."""

    key: str


class Hold(_Action, frozen=True):
    """Keep this until the round ends: on the cloud a single, on an edge an update of a job whose rule needs all."""

    key: str


class Drop(_Action, frozen=True):
    """Forget the payload: it is here already. The sender did nothing wrong."""

    key: str
    why: str


class Refuse(_Action, frozen=True):
    """Forget the payload and tell its sender `error` (BadUpdate)."""

    key: str
    nodes: tuple[str, ...]
    error: str


class Tell(_Action, frozen=True):
    """Edge: tell the cloud that this node has no update, with an UpdateMeta that carries the error and no bytes."""

    node: str
    error: str


class SendSum(_Action, frozen=True):
    """Edge: send the mean of what was added, with this meta (the shell sets encoding); keep it until `Forget`."""

    meta: UpdateMeta


class Forget(_Action, frozen=True):
    """Edge: the round is over; drop every payload of it."""


class Finish(_Action, frozen=True):
    """Cloud: checkpoint `weights + mean` and say RoundClosed. `metrics` are sample-weighted over the included."""

    included: dict[str, int]
    failed: dict[str, str]
    metrics: dict[str, float]
    late: dict[str, tuple[int, ...]] = {}
    """Node to the earlier rounds whose updates were added now, ascending."""


class Abandon(_Action, frozen=True):
    """Cloud: the quorum was missed; the weights stay, the round may be opened again under the next number."""

    reason: str
    failed: dict[str, str]


Event: TypeAlias = Arrived | Joined | Left | Lost | Closed | Tick
RoundAction: TypeAlias = Add | Forward | Hold | Drop | Refuse | Tell | SendSum | Forget | Finish | Abandon
