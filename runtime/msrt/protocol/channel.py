"""One reliable class of messages in both directions: sequence numbers, a window, resending, order. Pure.

Resending follows the cumulative-acknowledgement scheme of TCP (RFC 9293) with the doubling timer and the estimator of
RFC 6298: a hop's round trip is short, but who asks a thousand children at once hears the last of them late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from msrt import errors
from msrt.protocol.messages import Message
from msrt.protocol.session_table import Frames

__all__ = ["RESEND_MAX_S", "RESEND_S", "Channel", "RoundTrip"]

RESEND_S: Final = 0.25
RESEND_MAX_S: Final = 2.0
WINDOW: Final = 512
"""Unacknowledged messages per class on the wire; more wait."""
QUEUE_BYTES: Final = 16 << 20
"""Waiting and unacknowledged bytes per session, above which `send` is refused."""
HELD_BYTES: Final = QUEUE_BYTES
"""Bytes of messages that came before their turn. No sender has more than its queue on the wire."""


class RoundTrip:
    """How long acknowledgements take. All children of one parent may share one: the burst that makes it late with one
    of them makes it late with all, and what is resent then only makes it later.

    A message that was sent more than once counts from its first time: that is too long at most, and bounded.
    """

    def __init__(self) -> None:
        self._smooth = self._stray = 0.0
        self.timeout = RESEND_S
        """Seconds without an acknowledgement after which a message is resent."""

    def add(self, seconds: float) -> None:
        """An acknowledgement came after so long."""
        self._stray += (abs(seconds - self._smooth) - self._stray) / 4
        self._smooth += (seconds - self._smooth) / 8
        self.timeout = min(max(RESEND_S, 2 * self._smooth + 4 * self._stray), RESEND_MAX_S)


@dataclass(slots=True)
class _Sent:
    seq: int
    message: Message
    frames: Frames
    size: int
    at: float = 0.0
    """When it was first on the wire."""


@dataclass(slots=True)
class Channel:
    """One reliable class in both directions."""

    trip: RoundTrip = field(default_factory=RoundTrip)
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
            self.resend_s = self.trip.timeout
            self.resend_at = now + self.resend_s
        sent.at = now
        self.unacked.append(sent)

    def ack(self, upto: int, now: float) -> list[_Sent]:
        """Forget what arrived; returns what the window now lets out."""
        if not self.unacked or upto < self.unacked[0].seq:
            return []
        while self.unacked and self.unacked[0].seq <= upto:
            sent = self.unacked.popleft()
            self.bytes -= sent.size
            self.settled.append(sent.message)
        self.trip.add(now - sent.at)
        self.resend_s = self.trip.timeout
        self.resend_at = now + self.resend_s if self.unacked else float("inf")
        out = []
        while self.waiting and len(self.unacked) < WINDOW:
            sent = self.waiting.popleft()
            self._out(sent, now)
            out.append(sent)
        return out

    def due(self, now: float) -> list[_Sent]:
        """The timer came: what to send again. Nothing yet where acknowledgements take longer than when it was set."""
        later = self.unacked[0].at + self.trip.timeout if self.unacked else now
        if now < later:
            self.resend_at = later
            return []
        return self.resend(now)

    def resend(self, now: float) -> list[_Sent]:
        """All that is not acknowledged."""
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
