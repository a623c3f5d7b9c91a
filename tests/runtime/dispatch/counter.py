"""A dispatcher between made-up callers and made-up workers, with a clock that only tests move."""

from __future__ import annotations

import math
import random

from msrt.dispatch import (
    Answered,
    Config,
    Dispatcher,
    Failed,
    ModelsReady,
    Recall,
    Reject,
    Reply,
    Request,
    Send,
    Submit,
    Tick,
    VersionTable,
    WorkerUp,
)
from msrt.protocol.messages import InferFailed, Inferred, ModelState, TensorSpec


def ready(model="m", version=1, *, batch=True, latency_us=1000):
    return ModelState(model, version, "fp32", "ready", batch=batch, latency_us={"fp32": latency_us})


def question(values=(1,), *, deadline=10.0, model="m", version=0, width=None):
    """INT32 rows: one column, or `width` columns of the same value."""
    width = width or 1
    data = b"".join(value.to_bytes(4, "little") * width for value in values)
    return Request(model, (TensorSpec("x", "INT32", (len(values), width)),), (data,), deadline, values, version)


def echo(send: Send, device="d", version=None) -> Answered:
    """What an honest worker answers to a batch: its own rows."""
    message = send.message
    spec = message.inputs[0]
    outputs = (TensorSpec("y", spec.dtype, spec.shape),)
    answer = Inferred(message.ids, message.rows, message.model, version or message.version, "fp32", device, outputs)
    return Answered(send.worker, answer, (bytes(send.frames[0]),))


def failed(send: Send, code: str, retry_after_ms=0) -> Failed:
    return Failed(send.worker, InferFailed(send.message.ids, code, "no", retry_after_ms=retry_after_ms))


class Bench:
    """Keeps what the dispatcher said, and checks what must hold after each event."""

    def __init__(self, *workers: str, seed=1, table=True, limit=1_000_000, models=None, **settings) -> None:
        self.now = 0.0
        self.dispatcher = Dispatcher(Config(**settings), random.Random(seed))
        self.sent: list[Send] = []
        self.replies: list[Reply] = []
        self.rejects: list[Reject] = []
        self.recalls: list[Recall] = []
        self.settled: dict[int, float] = {}
        self.submitted: list[Request] = []
        if table:
            self.do(VersionTable("m", 1))
        for worker in workers:
            self.up(worker, limit=limit, models=models)

    def up(self, worker: str, *, limit=1_000_000, models=None) -> None:
        self.do(WorkerUp(worker, limit))
        self.do(ModelsReady(worker, models or (ready(),)))

    def do(self, event):
        """Handle one event; returns the Sends that came of it."""
        actions = self.dispatcher.handle(event, self.now)
        sends = [action for action in actions if isinstance(action, Send)]
        self.sent += sends
        live = self.dispatcher.flow.live
        for number in [number for send in sends for number in send.message.ids]:
            assert live[number].deadline > self.now, "an expired request was sent"
        for action in actions:
            if isinstance(action, Reply | Reject):
                key = id(action.request)
                assert key not in self.settled, "a request got two answers"
                self.settled[key] = self.now
                (self.replies if isinstance(action, Reply) else self.rejects).append(action)
            elif isinstance(action, Recall):
                self.recalls.append(action)
        return sends

    def ask(self, *requests: Request):
        self.submitted += requests
        return self.do(Submit(requests))

    def until(self, moment: float):
        """Let time pass, with a Tick whenever one is due; returns the Sends of it."""
        sends = []
        while (due := self.dispatcher.next_deadline()) <= moment:
            self.now = max(self.now, due)
            before = (self.dispatcher.next_deadline(), len(self.settled), len(self.sent))
            sends += self.do(Tick())
            assert (self.dispatcher.next_deadline(), len(self.settled), len(self.sent)) != before, (
                "a tick that ticks on"
            )
        self.now = moment
        return sends

    def end(self) -> None:
        """Run until nothing is due; then nothing may be open."""
        self.until(self.now + 1000)
        assert self.dispatcher.open_requests == 0
        assert self.dispatcher.queued == 0
        assert self.dispatcher.flow.admission.bytes == 0
        assert all(pool.items == 0 for pool in self.dispatcher.roster.pools.values())
        assert math.isinf(self.dispatcher.flow.deadlines.next)


def rows_of(reply: Reply) -> tuple[int, ...]:
    """The values that a caller reads: one per row."""
    spec = reply.outputs[0]
    data = bytes(reply.frames[0])
    rows, width = spec.shape
    assert len(data) == rows * width * 4
    values = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    assert all(values[row * width + column] == values[row * width] for row in range(rows) for column in range(width))
    return tuple(values[row * width] for row in range(rows))
