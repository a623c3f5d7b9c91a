"""Which role may say what. One table for calls, one for messages; what is not in them is refused."""

from __future__ import annotations

import enum
from typing import Final

from msrt.errors import Forbidden
from msrt.protocol import messages as m

__all__ = ["CALLS", "MESSAGES", "RIGHTS", "Right", "Role", "allowed", "check_call", "check_message"]


class Role(enum.StrEnum):
    """What a certificate makes of a node."""

    CLOUD = "cloud"
    EDGE = "edge"
    DEVICE = "device"
    CLIENT = "client"
    OPERATOR = "operator"


class Right(enum.StrEnum):
    """What a caller over HTTP or gRPC wants to do; the value ends the sentence "may not ..."."""

    ASK = "ask a model"
    LOOK = "look at models and edges"
    WATCH = "see events and metrics"
    MANAGE = "load and unload models"


RIGHTS: Final[dict[str, frozenset[Right]]] = {
    Role.CLIENT: frozenset({Right.ASK, Right.LOOK}),
    Role.OPERATOR: frozenset(Right),
}
"""Role of an API key to what it may. Health asks for no right: load balancers look at it."""

_READ: Final = {"infer", "models", "metadata", "edges", "ping"}

CALLS: Final[dict[str, frozenset[str]]] = {
    # The parent asks its child to act: calls that travel down.
    Role.CLOUD: frozenset({"*"}),
    Role.EDGE: frozenset(
        {
            "artifact.get", "enrol", "journal.*", "snapshot.get", "fleet.report", "events.push", "round.*", "edges",
            "ping", "model.load", "model.unload", "trust.get",
        }
    ),
    Role.DEVICE: frozenset(
        {"artifact.get", "artifact.ranges", "round.report", "mqtt.password", "ping", "trust.get", "cluster.meet"}
    ),
    Role.CLIENT: frozenset({*_READ, "artifact.get"}),
    Role.OPERATOR: frozenset(
        {
            *_READ, "artifact.*", "model.*", "node.*", "train.*", "job.*", "invite.*", "key.*", "rollout.*", "status",
            "status.*", "events.*", "journal.*", "update.*", "trust.*",
        }
    ),
}  # fmt: skip
"""Role of the caller to the methods it may call: a name, a family (`model.*`) or everything (`*`)."""

_SESSION: Final = {
    m.Hello, m.Welcome, m.Refuse, m.Heartbeat, m.Fence, m.Bye, m.Call, m.Return, m.Failed,
    m.StreamOpen, m.StreamCredit, m.StreamChunk, m.StreamEnd, m.StreamDone, m.StreamCancel,
}  # fmt: skip
_ASK: Final = {m.Infer, m.InferCancel}
_ANSWER: Final = {m.Inferred, m.InferFailed}
_TRAIN: Final = {m.RoundOpen, m.RoundClosed}
_SECURE_UP: Final = {m.SecureKeys, m.SecureShares, m.SecureReveal, m.SecureOut}
_SECURE_DOWN: Final = {m.SecureRoster, m.SecureShares, m.SecureUnmask, m.SecureOut}
_SHARDS: Final = {m.ShardsOpen, m.Push, m.Pulled, m.WorkersHere}

MESSAGES: Final[dict[str, frozenset[type]]] = {
    Role.CLOUD: frozenset(
        {*_SESSION, *_ASK, *_ANSWER, *_TRAIN, m.Enrolled, m.Parents, m.Assign, m.JournalBlock, m.FollowRefused, m.Event}
    ),
    Role.EDGE: frozenset(
        {*_SESSION, *_ASK, *_ANSWER, *_TRAIN, m.Enrol, m.Enrolled, m.Parents, m.Assign, m.Load, m.FleetReport, m.Follow}
        | {m.TrainProgress, m.ServingReport, m.Event, m.UpdateOffers, *_SECURE_DOWN, *_SHARDS}
    ),
    Role.DEVICE: frozenset(
        {*_SESSION, *_ANSWER, m.Enrol, m.DeviceReport, m.Load, m.TrainProgress, m.Event, m.Push, *_SECURE_UP}
    ),
    Role.CLIENT: frozenset({*_SESSION, *_ASK, m.Enrol}),
    Role.OPERATOR: frozenset({*_SESSION, *_ASK, m.Enrol}),
}  # fmt: skip
"""Role of the sender to the messages it may send: a device cannot assign models, a client cannot report events."""


def allowed(role: str, method: str) -> bool:
    """May a node of this role call that method? Unknown roles may nothing."""
    patterns = CALLS.get(role, frozenset())
    return method in patterns or "*" in patterns or f"{method.partition('.')[0]}.*" in patterns


def check_call(role: str, method: str) -> None:
    """Raises Forbidden."""
    if not allowed(role, method):
        raise Forbidden(f"role {role!r} may not call {method!r}", hint=_hint(method))


def check_message(role: str, message: object) -> None:
    """Raises Forbidden when a node of this role has no business sending such a message."""
    if type(message) not in MESSAGES.get(role, frozenset()):
        raise Forbidden(f"role {role!r} may not send {type(message).__name__}")


def _hint(method: str) -> str:
    roles = [role for role in (Role.CLIENT, Role.OPERATOR) if allowed(role, method)]
    article = "an" if roles[:1] == [Role.OPERATOR] else "a"
    return f"log in with {article} {' or '.join(roles)} invite: msrt login" if roles else ""
