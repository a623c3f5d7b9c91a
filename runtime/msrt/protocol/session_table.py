"""The states of a hop, what can happen to it, and the ONE table of what follows; the actions a session asks for."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from msrt import errors
from msrt.protocol.messages import Message

__all__ = [
    "TABLE",
    "Acked",
    "Action",
    "Deliver",
    "Event",
    "Frames",
    "Joined",
    "Over",
    "Persist",
    "Received",
    "Side",
    "Silent",
    "State",
    "Transmit",
]

Frames = Sequence[bytes | bytearray | memoryview]


class Side(enum.Enum):
    """Which end of the hop this is."""

    CHILD = "child"
    PARENT = "parent"


class State(enum.Enum):
    """Where the hop stands."""

    NEW = "new"
    GREETING = "greeting"
    LIVE = "live"
    SILENT = "silent"
    OVER = "over"


class Event(enum.Enum):
    """What can happen to it."""

    CONNECT = "connect"
    HELLO = "hello"
    WELCOME = "welcome"
    REFUSE = "refuse"
    DATA = "data"
    FENCE = "fence"
    BYE = "bye"
    LOST = "lost"
    LEASE_OUT = "lease out"
    CLOSE = "close"


C, P = Side.CHILD, Side.PARENT
ALIVE: Final = (State.NEW, State.GREETING, State.LIVE, State.SILENT)
TABLE: Final[dict[tuple[Side, State, Event], tuple[State, str]]] = {
    (C, State.NEW, Event.CONNECT): (State.GREETING, "greet"),
    (C, State.GREETING, Event.CONNECT): (State.GREETING, "greet"),
    (C, State.SILENT, Event.CONNECT): (State.GREETING, "greet"),
    (C, State.GREETING, Event.WELCOME): (State.LIVE, "welcomed"),
    (C, State.GREETING, Event.REFUSE): (State.OVER, "refused"),
    (C, State.GREETING, Event.LOST): (State.GREETING, "ignore"),
    (C, State.GREETING, Event.FENCE): (State.GREETING, "ignore"),
    (C, State.LIVE, Event.WELCOME): (State.LIVE, "ignore"),
    (C, State.LIVE, Event.REFUSE): (State.OVER, "refused"),
    (C, State.LIVE, Event.FENCE): (State.OVER, "fenced"),
    (P, State.NEW, Event.HELLO): (State.LIVE, "admitted"),
    (P, State.LIVE, Event.HELLO): (State.LIVE, "admitted"),
    (P, State.SILENT, Event.HELLO): (State.LIVE, "admitted"),
    (P, State.OVER, Event.HELLO): (State.LIVE, "admitted"),
    **{(side, State.LIVE, Event.LOST): (State.SILENT, "silent") for side in Side},
    **{(side, State.SILENT, Event.DATA): (State.LIVE, "revived") for side in Side},
    **{(side, state, Event.BYE): (State.OVER, "left") for side in Side for state in ALIVE},
    **{(side, state, Event.LEASE_OUT): (State.OVER, "expired") for side in Side for state in ALIVE},
    **{(side, state, Event.CLOSE): (State.OVER, "closed") for side in Side for state in State},
}  # fmt: skip
"""(side, state, event) -> (next state, what is done). What is not here is out of order and refused."""


class Transmit(msgspec.Struct, frozen=True):
    """Hand this to the link. One for each packet: made in C."""

    message: Message
    frames: Frames
    seq: int


class Deliver(msgspec.Struct, frozen=True):
    """Give this to the application."""

    message: Message
    frames: Frames


@dataclass(frozen=True, slots=True)
class Persist:
    """Give this durable message to the application, which calls `Session.persisted(seq)` once it is on disk."""

    message: Message
    frames: Frames
    seq: int


@dataclass(frozen=True, slots=True)
class Acked:
    """The peer has these durable messages on disk, oldest first."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """The hop is live. `resumed`: nothing was lost since the last time it was; else `lost` names the session
    messages that the other process never acknowledged, oldest first."""

    resumed: bool
    lost: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Silent:
    """The transport lost the peer; its lease still runs and it may resume."""


@dataclass(frozen=True, slots=True)
class Over:
    """The hop ended. `lost` are the session messages that were never acknowledged, oldest first."""

    error: errors.MsrtError | None
    lost: tuple[Message, ...] = ()


Action = Transmit | Deliver | Persist | Acked | Joined | Silent | Over


class Received(Protocol):
    """One decoded packet, as a session looks at it."""

    @property
    def delivery(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def ack_session(self) -> int: ...
    @property
    def ack_durable(self) -> int: ...
    @property
    def message(self) -> Message: ...
    @property
    def frames(self) -> Frames: ...
    @property
    def size(self) -> int: ...
