"""The receiving half of a stream: each byte once, in order, credit as it is written, a verdict. See stream.py."""

from __future__ import annotations

from msrt.buffers import Buffer
from msrt.errors import Corrupt, DeadlineExceeded, MalformedFrame, MsrtError, OutOfOrder
from msrt.protocol.messages import Message, StreamCancel, StreamChunk, StreamCredit, StreamDone, StreamEnd, StreamOpen
from msrt.protocol.stream_half import ACK_DELAY_S, DEFAULT_PATIENCE_S, NEVER, Action, Complete, Half, Send, Write

__all__ = ["StreamReceiver"]


class StreamReceiver(Half):
    """The receiving half, made from the opening; give it the same opening by `handle` to answer it.

    `have`: bytes held from an earlier try, where the stream resumes. `window`: how far the sender may be ahead.
    `patience`: seconds of silence after which it fails with DeadlineExceeded.
    """

    from_sender = False

    def __init__(
        self,
        opened: StreamOpen,
        have: int,
        window: int,
        now: float,
        *,
        patience: float = DEFAULT_PATIENCE_S,
    ) -> None:
        super().__init__(opened.stream, patience, now)
        self.open = opened
        self.offset = have
        """Everything below is here."""
        self.limit = have
        """What the sender was allowed."""
        self.window = window
        self._end: StreamEnd | None = None
        self._verifying = False
        self._credited = have
        self._credit_at = NEVER

    @property
    def deadline(self) -> float:
        """When `tick` is next needed."""
        if self.over:
            return NEVER
        return self._credit_at if self._verifying else min(self._credit_at, self._progress_at + self.patience)

    def handle(self, message: Message, frame: Buffer, now: float) -> list[Action]:
        """A StreamOpen or StreamChunk (each with its frame), StreamEnd or StreamCancel of this stream."""
        if isinstance(message, StreamCancel):
            return self._cancelled(message)
        if not isinstance(message, (StreamOpen, StreamChunk, StreamEnd)):
            return []
        if self.over:
            return self._repeat()
        self._progress_at = now
        match message:
            case StreamOpen():
                return self._opened(message, frame)
            case StreamChunk():
                return self._chunk(message, frame, now)
            case _:
                return self._ending(message)

    def verified(self, _now: float) -> list[Action]:
        """The whole matches its digest: tell the sender."""
        if self.over:
            return []
        self.over = True
        self.last_word = StreamDone(self.stream)
        return [Send(self.last_word)]

    def rejected(self, error: MsrtError, _now: float) -> list[Action]:
        """The whole is not what was promised, or cannot be used."""
        return self.cancel(error)

    def tick(self, now: float) -> list[Action]:
        """The deadline came: say the credit that waited, or give up."""
        if self.over:
            return []
        if not self._verifying and now >= self._progress_at + self.patience:
            return self.cancel(DeadlineExceeded(f"stream {self.open.kind}: nothing came for {self.patience:g} s"))
        return self._credit() if now >= self._credit_at else []

    def reconnected(self, now: float) -> list[Action]:
        """The session is live again: the sender speaks first."""
        self._progress_at = now
        return []

    # --- inside ----------------------------------------------------------------------------------------------

    def _opened(self, message: StreamOpen, frame: Buffer) -> list[Action]:
        mine = self.open
        if (message.kind, message.size, message.digest) != (mine.kind, mine.size, mine.digest):
            return self.cancel(OutOfOrder(f"stream {self.stream} was opened twice, as different things"))
        if 0 <= message.size < self.offset:
            return self.cancel(Corrupt(f"{self.offset} bytes are here of a stream of {message.size}"))
        if message.attempt < mine.attempt:
            return []
        self.open = message
        if len(frame) != message.size or not message.digest or self._verifying:
            return self._credit()
        return self._whole(message, frame)

    def _whole(self, message: StreamOpen, frame: Buffer) -> list[Action]:
        """All of it came with the opening: the verdict says that there is no more to send."""
        start, self.offset, self._verifying = self.offset, message.size, True
        self._end = StreamEnd(self.stream, message.size, message.digest)
        rest: list[Action] = [Write(start, memoryview(frame)[start:])] if start < message.size else []
        return [*rest, Complete(message.size, message.digest)]

    def _chunk(self, message: StreamChunk, frame: Buffer, now: float) -> list[Action]:
        start, size = message.offset, len(frame)
        if start < 0 or not size:
            return self._credit() if start >= 0 else self.cancel(MalformedFrame("a chunk at a negative offset"))
        if 0 <= self._most() < start + size:
            return self.cancel(OutOfOrder(f"a chunk up to {start + size} of a stream of {self._most()}"))
        if start > self.offset or start + size > self.limit:
            return self._credit()
        if start + size <= self.offset:
            self._credit_at = min(self._credit_at, now + ACK_DELAY_S)
            return []
        data = frame if start == self.offset else memoryview(frame)[self.offset - start :]
        out: list[Action] = [Write(self.offset, data)]
        self.offset = start + size
        if self._end is not None and self.offset == self._end.size:
            return [*out, *self._complete(self._end)]
        if self.offset - self._credited >= self.window // 8:
            return [*out, *self._credit()]
        self._credit_at = min(self._credit_at, now + ACK_DELAY_S)
        return out

    def _ending(self, message: StreamEnd) -> list[Action]:
        first = self._end or message
        wrong = 0 <= self.open.size != message.size or (self.open.digest and self.open.digest != message.digest)
        if wrong or message.size < self.offset or first != message:
            return self.cancel(OutOfOrder(f"the end of stream {self.open.kind} contradicts what came before"))
        self._end = message
        if self.offset == message.size and not self._verifying:
            return self._complete(message)
        return self._credit()

    def _complete(self, end: StreamEnd) -> list[Action]:
        self._verifying = True
        return [*self._credit(), Complete(end.size, end.digest)]

    def _most(self) -> int:
        return self._end.size if self._end else self.open.size

    def _credit(self) -> list[Action]:
        self._credit_at, self._credited = NEVER, self.offset
        self.limit = self.offset + self.window
        return [Send(StreamCredit(self.stream, self.offset, self.limit, self.open.attempt))]
