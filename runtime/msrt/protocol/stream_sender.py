"""The sending half of a stream: open, chunks under credit, go back on loss, end. See stream.py."""

from __future__ import annotations

from msrt.buffers import Buffer
from msrt.errors import Corrupt, DeadlineExceeded, OutOfOrder
from msrt.protocol.messages import Message, StreamCancel, StreamChunk, StreamCredit, StreamDone, StreamEnd, StreamOpen
from msrt.protocol.stream_half import (
    CHUNK_FIRST,
    CHUNK_S,
    DEFAULT_PATIENCE_S,
    KEEPALIVE_S,
    NEVER,
    REPEATS,
    RTO_FIRST_S,
    RTO_MAX_S,
    RTO_MIN_S,
    SLOW_S,
    Action,
    Finished,
    Half,
    Read,
    Send,
)

__all__ = ["StreamSender"]


class StreamSender(Half):
    """The sending half. `size` and `digest` (SHA-256 hex) of the whole; size -1 for a source that grows, whose shell
    calls `end` with both. `chunk_limit`: most bytes of one chunk (see wire.chunk_limit); it begins with `chunk`, what
    the last stream on this link ended with, and grows where the link is quick. `whole`: all its bytes, to ride with the
    opening. `first`: seconds after which an opening is said again. `patience`: seconds without progress after which it
    fails with DeadlineExceeded; a growing source with nothing to say is not counted.
    """

    from_sender = True

    def __init__(  # noqa: PLR0913 - a stream is named by all of these
        self,
        stream: int,
        kind: str,
        meta: dict[str, object],
        size: int,
        digest: str,
        chunk_limit: int,
        now: float,
        *,
        answers: int = 0,
        chunk: int = CHUNK_FIRST,
        whole: Buffer | None = None,
        first: float = RTO_FIRST_S,
        patience: float = DEFAULT_PATIENCE_S,
    ) -> None:
        super().__init__(stream, patience, now)
        self._began, self._first = now, first
        self.answered_s = 0.0
        """How long the opening went without an answer."""
        self._frames = () if whole is None else (whole,)
        self.open = StreamOpen(stream, kind, meta, size, digest, answers=answers)
        self.acked = 0
        """The receiver has everything below."""
        self.limit = 0
        """The receiver lets us send up to here."""
        self.sent = 0
        self._size, self._digest = size, digest
        self._largest = chunk_limit
        self.chunk = min(chunk, chunk_limit)
        """Bytes of one, as the link has shown itself so far."""
        self._opening = True
        self._ended = False
        self._reading = -1
        self._top = 0
        self._repeats = 0
        self._recover = 0
        self._rtt = 0.0
        self._deviation = 0.0
        self._rto = first
        self._timed: tuple[int, float, int] | None = None
        """Offset, when it was sent, bytes on their way then."""
        self._timer = now

    @property
    def deadline(self) -> float:
        """When `tick` is next needed; the first time at once, which sends the opening."""
        if self.over:
            return NEVER
        return self._timer if self._idle else min(self._timer, self._progress_at + self.patience)

    @property
    def _idle(self) -> bool:
        """A growing source has nothing to say, and the receiver has all that it said."""
        return self._size < 0 and not self._opening and self._reading >= 0 and self.sent == self.acked

    def handle(self, message: Message, now: float) -> list[Action]:
        """A StreamCredit, StreamDone or StreamCancel of this stream."""
        match message:
            case StreamCancel():
                return self._cancelled(message)
            case _ if self.over:
                return self._repeat() if isinstance(message, StreamCredit) else []
            case StreamDone() if self._size >= 0:
                self._answered(now)
                self.over = True
                return [Finished()]
            case StreamCredit() if message.attempt == self.open.attempt:
                return self._credit(message, now)
        return []

    def data(self, offset: int, data: Buffer, now: float) -> list[Action]:
        """What `Read` asked for, or less of it. Empty: the source ended (a growing one says `end` instead)."""
        if self.over or offset != self._reading:
            return []
        self._reading = -1
        room = self._room()
        if self._opening or offset != self.sent or room <= 0:
            return self._pump(now)
        if not len(data):
            return self.cancel(Corrupt(f"the source of stream {self.open.kind} ended early, at {offset}"))
        data = data if len(data) <= room else data[:room]
        fresh = offset >= self._top
        if self.sent == self.acked:
            self._timer = now + self._rto
            self._progress_at = now if fresh else self._progress_at
        if fresh and self._timed is None:
            self._timed = (offset + len(data), now, offset + len(data) - self.acked)
        self.sent += len(data)
        self._top = max(self._top, self.sent)
        return [Send(StreamChunk(self.stream, offset), (data,)), *self._pump(now)]

    def end(self, size: int, digest: str, now: float) -> list[Action]:
        """A growing source is complete: its whole size and SHA-256."""
        if self.over or self._size >= 0:
            return []
        self._size, self._digest, self._reading, self._progress_at = size, digest, -1, now
        return self._pump(now)

    def tick(self, now: float) -> list[Action]:
        """The deadline came: open, repeat, probe, or give up."""
        if self.over:
            return []
        if not self._idle and now >= self._progress_at + self.patience:
            who = "its source gave nothing" if self._reading >= 0 and self.sent == self.acked else "no progress"
            return self.cancel(DeadlineExceeded(f"stream {self.open.kind}: {who} for {self.patience:g} s"))
        if now < self._timer:
            return []
        if self._idle:
            self._timer = now + KEEPALIVE_S
            return [Send(StreamChunk(self.stream, self.sent), (b"",))]
        self._timer = now + self._rto
        self._rto = min(self._rto * 2, RTO_MAX_S)
        if self._opening:
            return [Send(self.open, self._frames)]
        if self.sent > self.acked:
            return self._go_back(now)
        if self._ended:
            return [Send(StreamEnd(self.stream, self._size, self._digest))]
        return [Send(StreamChunk(self.stream, self.sent), (b"",))]

    def reconnected(self, now: float, chunk_limit: int = 0) -> list[Action]:
        """The session is live again, perhaps over another link: open again, go on where the receiver stands."""
        if self.over:
            return []
        self._largest = chunk_limit or self._largest
        self.chunk = min(CHUNK_FIRST, self._largest)
        was = self.open
        self.open = StreamOpen(
            was.stream, was.kind, was.meta, was.size, was.digest, self.acked, was.answers, was.attempt + 1
        )
        self._opening, self._ended, self._timed = True, False, None
        self._rto = self._first
        self._timer = now + self._rto
        return [Send(self.open, self._frames)]

    # --- inside ----------------------------------------------------------------------------------------------

    def _credit(self, credit: StreamCredit, now: float) -> list[Action]:
        most = (self._size if self._size >= 0 else credit.limit) if self._opening else self._top
        if not 0 <= credit.offset <= most or credit.limit < credit.offset:
            return self.cancel(OutOfOrder(f"credit from {credit.offset} to {credit.limit} of a stream at {self._top}"))
        if self._opening:
            self._answered(now)
            self._opening = False
            self.acked = self.sent = self._top = self._recover = credit.offset
            self.limit, self._repeats = credit.limit, 0
            self._advance(now)
            return self._pump(now)
        self.limit = max(self.limit, credit.limit)
        if credit.offset > self.acked:
            if self._timed and credit.offset >= self._timed[0]:
                self._measure(now - self._timed[1], self._timed[2])
            self.acked, self._repeats = credit.offset, 0
            self.sent = max(self.sent, self.acked)
            self._advance(now)
        elif credit.offset == self.acked < self.sent:
            self._repeats += 1
            if self._repeats == REPEATS and self.acked >= self._recover:
                return self._go_back(now)
        return self._pump(now)

    def _answered(self, now: float) -> None:
        if self._opening:
            self.answered_s = now - self._began

    def _advance(self, now: float) -> None:
        self._progress_at = now
        self._rto = min(max(self._rtt + 4 * self._deviation, RTO_MIN_S), RTO_MAX_S) if self._rtt else self._first
        self._timer = now + self._rto

    def _measure(self, sample: float, flight: int) -> None:
        if self._rtt:
            self._deviation += (abs(sample - self._rtt) - self._deviation) / 4
            self._rtt += (sample - self._rtt) / 8
        else:
            self._rtt, self._deviation = sample, sample / 2
        self._timed = None
        rate = flight / max(sample, 1e-6)
        if rate * CHUNK_S >= 2 * self.chunk:
            self.chunk = min(2 * self.chunk, self._largest)
        elif rate * SLOW_S < self.chunk:
            self.chunk = max(self.chunk // 2, min(CHUNK_FIRST, self._largest))

    def _go_back(self, now: float) -> list[Action]:
        self._recover, self._repeats, self._timed, self._ended = self._top, 0, None, False
        self.sent = self.acked
        self._timer = now + self._rto
        return self._pump(now)

    def _pump(self, now: float) -> list[Action]:
        """Ask for the next bytes that the credit allows, or say the end."""
        if self._opening or self._reading >= 0:
            return []
        if self.sent == self._size:
            if self._ended:
                return []
            self._ended = True
            if self.sent == self.acked:
                self._timer = now + self._rto
            return [Send(StreamEnd(self.stream, self._size, self._digest))]
        room = self._room()
        whole = self.chunk if self._size < 0 else min(self.chunk, self._size - self.sent)
        if room <= 0 or (room < whole and self.sent > self.acked):  # crumbs wait: more credit is on its way
            return []
        self._reading = self.sent
        return [Read(self.sent, room)]

    def _room(self) -> int:
        """Bytes that may go out now: one chunk, under the credit, within the whole."""
        room = min(self.chunk, self.limit - self.sent)
        return min(room, self._size - self.sent) if self._size >= 0 else room
