"""One reliable class of messages in both directions: sequence numbers, a window, resending, order. Pure.

Resending follows the cumulative-acknowledgement scheme of TCP (RFC 9293) with a doubling timer (RFC 6298, without
the estimator: a hop's round trip is known to be short).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from msrt import errors
from msrt.protocol.messages import Message
from msrt.protocol.session_table import Frames

__all__ = ["RESEND_MAX_S", "RESEND_S", "Channel"]

RESEND_S: Final = 0.25
RESEND_MAX_S: Final = 2.0
WINDOW: Final = 512
"""Unacknowledged messages per class on the wire; more wait."""
QUEUE_BYTES: Final = 16 << 20
"""Waiting and unacknowledged bytes per session, above which `send` is refused."""
HELD_BYTES: Final = QUEUE_BYTES
"""Bytes of messages that came before their turn. No sender has more than its queue on the wire."""


@dataclass(slots=True)
class _Sent:
    seq: int
    message: Message
    frames: Frames
    size: int


@dataclass(slots=True)
class Channel:
    """One reliable class in both directions."""

    next_seq: int = 1
    unacked: deque[_Sent] = field(default_factory=deque)
    waiting: deque[_Sent] = field(default_factory=deque)
    bytes: int = 0
    resend_at: float = float("inf")
    resend_s: float = RESEND_S
    received: int = 0
    """Highest sequence delivered, in order."""
    acked: int = 0
    """What our acknowledgements say: `received`, or for durable what is on disk."""
    early: dict[int, tuple[Message, Frames, int]] = field(default_factory=dict)
    """By sequence, with its bytes on the wire."""
    early_bytes: int = 0
    settled: list[Message] = field(default_factory=list)
    """Acknowledged since the application was last told."""

    @property
    def sent(self) -> int:
        """Highest sequence that was ever on the wire."""
        return self.next_seq - 1 - len(self.waiting)

    def put(self, message: Message, frames: Frames, now: float) -> _Sent | None:
        """Number a message; returns it if the window lets it out at once."""
        sent = _Sent(self.next_seq, message, frames, 256 + sum(memoryview(f).nbytes for f in frames))
        if self.bytes and self.bytes + sent.size > QUEUE_BYTES:
            raise errors.Overloaded(f"{self.bytes} bytes wait for the peer", hint="slow down, or try again later")
        self.next_seq += 1
        self.bytes += sent.size
        if len(self.unacked) >= WINDOW:
            self.waiting.append(sent)
            return None
        self._out(sent, now)
        return sent

    def _out(self, sent: _Sent, now: float) -> None:
        if not self.unacked:
            self.resend_at = now + self.resend_s
        self.unacked.append(sent)

    def ack(self, upto: int, now: float) -> list[_Sent]:
        """Forget what arrived; returns what the window now lets out."""
        if not self.unacked or upto < self.unacked[0].seq:
            return []
        while self.unacked and self.unacked[0].seq <= upto:
            sent = self.unacked.popleft()
            self.bytes -= sent.size
            self.settled.append(sent.message)
        self.resend_s = RESEND_S
        self.resend_at = now + self.resend_s if self.unacked else float("inf")
        out = []
        while self.waiting and len(self.unacked) < WINDOW:
            sent = self.waiting.popleft()
            self._out(sent, now)
            out.append(sent)
        return out

    def resend(self, now: float) -> list[_Sent]:
        self.resend_s = min(self.resend_s * 2, RESEND_MAX_S)
        self.resend_at = now + self.resend_s if self.unacked else float("inf")
        return list(self.unacked)

    def take(self, seq: int, message: Message, frames: Frames, size: int) -> list[tuple[int, Message, Frames]]:
        """Put a received message in its place; returns what can be delivered, in order. What no honest sender would
        have on the wire by now is dropped: it comes again when its time has come."""
        if seq <= self.received or seq > self.acked + 2 * WINDOW:
            return []
        if seq > self.received + 1:
            if seq not in self.early and self.early_bytes + size <= HELD_BYTES:
                self.early[seq] = (message, frames, size)
                self.early_bytes += size
            return []
        out = [(seq, message, frames)]
        self.received = seq
        while self.early and (held := self.early.pop(self.received + 1, None)) is not None:
            self.received += 1
            self.early_bytes -= held[2]
            out.append((self.received, held[0], held[1]))
        return out

    def messages(self) -> tuple[Message, ...]:
        return tuple(s.message for s in (*self.unacked, *self.waiting))
