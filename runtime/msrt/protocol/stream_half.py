"""What both halves of a stream share: the actions they ask for, the bounds, an end and saying it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from msrt.buffers import Buffer
from msrt.errors import MsrtError, from_wire
from msrt.protocol.messages import Message, StreamCancel, StreamDone

__all__ = ["Action", "Complete", "FailedStream", "Finished", "Half", "Read", "Send", "Write"]

DEFAULT_WINDOW: Final = 4 << 20
"""Bytes a receiver lets a sender be ahead."""
CHUNK_FIRST: Final = (256 << 10) - (1 << 10)
"""Bytes of a chunk before the link is known to be quick: a larger one would hold messages up on a slow link."""
INLINE: Final = 64 << 10
"""Bytes that travel with the opening, where they are all that the stream brings."""
CHUNK_S: Final = 0.02
"""A chunk grows while it would take no longer than this on its way."""
SLOW_S: Final = 0.06
"""It shrinks once it takes longer than this: a link that many streams share is quick, but not at every moment."""
DEFAULT_PATIENCE_S: Final = 30.0
"""Without progress for so long, a stream fails."""
ACK_DELAY_S: Final = 0.02
"""Credit for less than an eighth of the window waits so long for more to ride with it."""
RTO_FIRST_S: Final = 1.0
"""As RFC 6298 begins. A master that hears a thousand openings at once answers the last of them late."""
RTO_MIN_S: Final = 0.2
RTO_MAX_S: Final = 5.0
KEEPALIVE_S: Final = 5.0
"""A sender whose source is slow says so often that it lives."""
REPEATS: Final = 3
"""Credits that say nothing new before the sender believes that a chunk was lost."""
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the peer; losing it is allowed."""

    message: Message
    frames: tuple[Buffer, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Read up to `size` bytes at `offset` of the source and hand them to `StreamSender.data`."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Write:
    """The next bytes, in order, each exactly once."""

    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Complete:
    """All bytes came. Check them against the digest, then call `verified` or `rejected`."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The receiver has it whole and verified."""


@dataclass(frozen=True, slots=True)
class FailedStream:
    """The stream is over without success."""

    error: MsrtError


Action = Send | Read | Write | Complete | Finished | FailedStream


class Half:
    """What both ends share: an end, and saying it again."""

    from_sender: ClassVar[bool]

    def __init__(self, stream: int, patience: float, now: float) -> None:
        self.stream, self.patience = stream, patience
        self.over = False
        """Finished, failed or cancelled."""
        self.last_word: StreamCancel | StreamDone | None = None
        """What the peer hears again when it did not hear the end."""
        self._progress_at = now

    def cancel(self, error: MsrtError) -> list[Action]:
        """Give up, and tell the peer why."""
        if self.over:
            return []
        self.over = True
        self.last_word = StreamCancel(self.stream, self.from_sender, error.code, error.text)
        return [Send(self.last_word), FailedStream(error)]

    def _cancelled(self, message: StreamCancel) -> list[Action]:
        if self.over or message.from_sender is self.from_sender:
            return []
        self.over = True
        return [FailedStream(from_wire(message.code, message.text or "the peer gave the stream up"))]

    def _repeat(self) -> list[Action]:
        return [Send(self.last_word)] if self.last_word else []
