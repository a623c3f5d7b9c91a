"""What is larger than a message, or grows."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Transient

__all__ = ["StreamCancel", "StreamChunk", "StreamCredit", "StreamDone", "StreamEnd", "StreamOpen"]


class StreamOpen(Transient, frozen=True, tag="s.open"):
    """Sender to receiver: a stream begins (resent until credit comes)."""

    stream: int
    """Chosen by the sender; the sender's side is part of the identity."""
    kind: str
    """artifact, update, snapshot, ..."""
    meta: dict[str, object] = msgspec.field(default_factory=dict)
    size: int = -1
    """Bytes in all, -1 when it grows."""
    digest: str = ""
    """SHA-256 hex of the whole, empty when it grows (then the end carries it). Of an update 16 digits may be its
    checksum (msrt.protocol.checksum), where the round's opening said so."""
    offset: int = 0
    """Where the sender begins."""
    answers: int = 0
    """The id of the call that asked for this stream, 0 if none."""
    attempt: int = 0
    """One more after each reconnect; the credit for it says the same."""


class StreamCredit(Transient, frozen=True, tag="s.credit"):
    """Receiver to sender: I have everything below `offset`, you may send up to `limit`."""

    stream: int
    offset: int
    limit: int
    attempt: int = 0
    """Of the opening that this answers: credit of an earlier one is void."""


class StreamChunk(Transient, frozen=True, tag="s.chunk"):
    """One piece; its bytes are the frame beside it."""

    stream: int
    offset: int


class StreamEnd(Transient, frozen=True, tag="s.end"):
    """Sender: that was all."""

    stream: int
    size: int
    digest: str


class StreamDone(Transient, frozen=True, tag="s.done"):
    """Receiver: whole and verified."""

    stream: int


class StreamCancel(Transient, frozen=True, tag="s.cancel"):
    """Either side gives up."""

    stream: int
    from_sender: bool
    code: str
    text: str = ""
