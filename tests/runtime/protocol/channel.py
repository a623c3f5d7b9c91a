"""A stream's two halves with a bad network between them, under a clock of its own: the thinnest honest shell."""

from __future__ import annotations

import hashlib
import heapq
import random
from dataclasses import dataclass

from msrt.errors import MsrtError
from msrt.protocol import wire
from msrt.protocol.messages import StreamChunk, StreamCredit, StreamOpen
from msrt.protocol.stream import Complete, FailedStream, Finished, Read, Send, StreamReceiver, StreamSender, Write


@dataclass
class Faults:
    """Chances per message, and seconds."""

    loss: float = 0.0
    twice: float = 0.0
    delay: float = 0.01
    jitter: float = 0.0
    """Beyond the delay between two messages, it reorders them."""
    until: float = float("inf")
    """From here on the network is perfect."""


class Channel:
    """Sender on the left, receiver on the right."""

    def __init__(
        self,
        body: bytes,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        window: int = 64,
        chunk: int = 10,
        have: int = 0,
        grows: bool = False,
        inline: bool = False,
        patience: float = 30.0,
        digest: str | None = None,
    ) -> None:
        self.body, self.faults, self.window, self.patience = body, faults or Faults(), window, patience
        self.random = random.Random(seed)
        self.digest = hashlib.sha256(body).hexdigest() if digest is None else digest
        self.grows = grows
        self.now = 0.0
        self.sender = StreamSender(
            7,
            "artifact",
            {"digest": self.digest},
            -1 if grows else len(body),
            "" if grows else self.digest,
            chunk,
            0.0,
            whole=body if inline else None,
            patience=patience,
        )
        self.receiver: StreamReceiver | None = None
        self.arrived = bytearray(body[:have])
        self.cut_until = 0.0
        self.finished = False
        self.sender_error: MsrtError | None = None
        self.receiver_error: MsrtError | None = None
        self.completed = False
        self.sent: list[object] = []
        self.granted = 0
        self._queue: list[tuple[float, int, bool, object, bytes]] = []
        self._order = 0
        self._reconnect_at = float("inf")

    def cut(self, seconds: float) -> None:
        """Everything in flight and for so long is lost; then both sides reconnect."""
        self._queue.clear()
        self.cut_until = self._reconnect_at = self.now + seconds

    def restart_receiver(self) -> None:
        """The receiving process dies with what was written on its disk, and the link with it."""
        self.receiver = None
        self.cut(0.1)

    def carry(self, to_receiver: bool, message: object, frames: tuple = ()) -> None:
        """Put a message on the network, over the real wire."""
        self.sent.append(message)
        if isinstance(message, StreamCredit):
            assert message.limit - message.offset <= self.window
        if isinstance(message, StreamChunk):
            assert message.offset + len(frames[0]) <= self.granted, "over the credit"
        if self.now < self.cut_until:
            return
        faulty = self.now < self.faults.until
        copies = 1 + (faulty and self.random.random() < self.faults.twice)
        for _ in range(copies):
            if faulty and self.random.random() < self.faults.loss:
                continue
            packet = wire.decode(wire.encode(message, frames), wire.ZMQ_LIMIT)
            wait = self.faults.delay + (self.random.random() * self.faults.jitter if faulty else 0)
            self._order += 1
            frame = bytes(packet.frames[0]) if packet.frames else b""
            heapq.heappush(self._queue, (self.now + wait, self._order, to_receiver, packet.message, frame))

    def perform(self, actions: list, from_sender: bool) -> None:
        """What a shell does."""
        for action in actions:
            match action:
                case Send(message, frames):
                    self.carry(from_sender, message, frames)
                case Read(offset, size):
                    self.read(offset, size)
                case Write(offset, data):
                    assert offset == len(self.arrived), "a byte twice, or out of order"
                    self.arrived += data
                case Complete(size, digest):
                    assert size == len(self.arrived)
                    assert not self.completed
                    self.completed = hashlib.sha256(self.arrived).hexdigest() == digest
                    verdict = self.receiver.verified(self.now) if self.completed else None
                    self.perform(verdict or [], from_sender=False)
                case Finished():
                    self.finished = True
                case FailedStream(error) if from_sender:
                    self.sender_error = error
                case FailedStream(error):
                    self.receiver_error = error

    def read(self, offset: int, size: int) -> None:
        """The source answers at once."""
        data = self.body[offset : offset + size]
        if self.grows and not data:
            self.perform(self.sender.end(len(self.body), self.digest, self.now), from_sender=True)
        else:
            self.perform(self.sender.data(offset, data, self.now), from_sender=True)

    def deliver(self, to_receiver: bool, message: object, frame: bytes) -> None:
        if not to_receiver:
            if isinstance(message, StreamCredit):
                self.granted = max(self.granted, message.limit)
            self.perform(self.sender.handle(message, self.now), from_sender=True)
            return
        if self.receiver is None:
            if not isinstance(message, StreamOpen):
                return
            self.receiver = StreamReceiver(message, len(self.arrived), self.window, self.now, patience=self.patience)
        self.perform(self.receiver.handle(message, frame, self.now), from_sender=False)

    @property
    def over(self) -> bool:
        return self.sender.over and (self.receiver is None or self.receiver.over) and not self._queue

    def step(self) -> None:
        """Jump to the next thing that happens."""
        due = self._queue[0][0] if self._queue else float("inf")
        receiver_due = self.receiver.deadline if self.receiver else float("inf")
        self.now = max(self.now, min(due, self.sender.deadline, receiver_due, self._reconnect_at))
        if self.now >= self._reconnect_at:
            self._reconnect_at, self.granted = float("inf"), 0
            self.perform(self.sender.reconnected(self.now), from_sender=True)
            if self.receiver:
                self.perform(self.receiver.reconnected(self.now), from_sender=False)
        elif due <= self.now:
            _, _, to_receiver, message, frame = heapq.heappop(self._queue)
            self.deliver(to_receiver, message, frame)
        elif self.sender.deadline <= self.now:
            self.perform(self.sender.tick(self.now), from_sender=True)
        else:
            self.perform(self.receiver.tick(self.now), from_sender=False)

    def run(self, until: float = 1e9, steps: int = 200_000) -> Channel:
        """Until both are over, or the clock says so."""
        for _ in range(steps):
            if self.over or self.now > until:
                return self
            self.step()
        raise AssertionError(f"no end: {self.sender.__dict__}")
