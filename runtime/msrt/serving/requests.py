"""A master's dispatcher on the wire: requests from fronts and client peers, batches to workers, answers back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from msrt import errors
from msrt.buffers import Buffer
from msrt.dispatch.decisions import Entry
from msrt.dispatch.dispatcher import Dispatcher
from msrt.dispatch.events import (
    Action,
    Answered,
    Cancel,
    Event,
    Failed,
    ModelsReady,
    Recall,
    Record,
    Reject,
    Reply,
    Request,
    Send,
    Submit,
    Tick,
    VersionTable,
    WorkerDown,
    WorkerUp,
)
from msrt.hop import Peer
from msrt.protocol import wire
from msrt.protocol.messages import (
    DeviceReport,
    Infer,
    InferCancel,
    InferFailed,
    Inferred,
    Message,
    ModelState,
    TensorSpec,
)
from msrt.protocol.packing import frame_size
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.tally import Tally
from msrt.serving.trails import Trails
from msrt.world.world import World

__all__ = ["Requests", "Worker"]

Validate = Callable[[str, int, tuple[TensorSpec, ...], "tuple[Buffer, ...] | list[Buffer]"], int]
"""Rows of a request against the model's manifest. Raises InvalidTensor, NotFound."""


Spill = Callable[[Request, errors.MsrtError], bool]
"""Offered each request that found no place or nobody here; True: it is taken elsewhere, and comes back by `passed` or
`not_passed`."""
FULL = (errors.Overloaded, errors.Unavailable)


class Worker(Protocol):
    """What computes: a device's peer, or this node's own engine."""

    @property
    def node(self) -> str: ...

    @property
    def limit(self) -> int: ...

    def send(self, message: Message, frames: Sequence[Buffer] = ()) -> None: ...


class _ClientToken:
    """Whose request it is, and what they call it."""

    __slots__ = ("id", "peer")

    def __init__(self, peer: Peer, ident: int) -> None:
        self.peer, self.id = peer, ident


class Requests:
    """All inference of one master. Everything happens in the event loop, without a task or thread per request."""

    def __init__(self, world: World, dispatcher: Dispatcher, validate: Validate, tally: Tally) -> None:
        self._world, self._dispatcher, self._validate, self._tally = world, dispatcher, validate, tally
        self._workers: dict[str, Worker] = {}
        self.spill: Spill = lambda _request, _error: False
        self.unhedged: frozenset[str] = frozenset()
        """Models of which no second device is asked when the first is late."""
        self._of_client: dict[Peer, dict[int, Request]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._arrived: list[Request] = []
        self.trails: Trails | None = None
        """Of traced requests, where there is a collector."""
        self.record: Callable[[Entry], None] = lambda _entry: None
        """Where drawn decisions are written down."""

    # --- devices ------------------------------------------------------------------------------------------

    def worker_up(self, peer: Worker) -> None:
        """A device's session is live."""
        self._workers[peer.node] = peer
        self._handle(WorkerUp(peer.node, peer.limit - wire.HEADER_LIMIT // 16))

    def worker_down(self, peer: Worker) -> None:
        """A device went silent or away: its work goes elsewhere."""
        if self._workers.pop(peer.node, None) is not None:
            self._handle(WorkerDown(peer.node))

    def report(self, peer: Peer, report: DeviceReport) -> None:
        """What a device holds now."""
        self._handle(ModelsReady(peer.node, report.models))

    def answered(self, peer: Peer, message: Inferred, frames: list[Buffer]) -> None:
        """A device answered a batch."""
        self._handle(Answered(peer.node, message, frames))

    def failed(self, peer: Peer, message: InferFailed) -> None:
        """A device could not."""
        self._handle(Failed(peer.node, message))

    def own_models(self, node: str, models: tuple[ModelState, ...]) -> None:
        """What this node's own engine holds now."""
        self._handle(ModelsReady(node, models))

    def own_answer(self, node: str, message: Inferred | InferFailed, frames: list[Buffer]) -> None:
        """What this node's own engine made of a batch."""
        self._handle(Answered(node, message, frames) if isinstance(message, Inferred) else Failed(node, message))

    def versions(self, table: VersionTable) -> None:
        """Which version answers who names none."""
        self._tally.serves(table.model, table.stable or table.candidate)
        self._handle(table)

    # --- callers ------------------------------------------------------------------------------------------

    def infer(self, request: InferRequest, *, copy: bool = False) -> asyncio.Future[InferAnswer]:
        """One request of the HTTP front, or a copy of one. Requests of one loop turn are submitted together."""
        self._rows_of(request, request.frames)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferAnswer] = loop.create_future()
        now = self._world.now()
        one = Request(
            request.model, request.inputs, request.frames, now + request.timeout_s, future,
            request.version, request.outputs, request.trace, request.priority,
            request.sequence, request.sequence_start, request.sequence_end,
            hedgeable=request.model not in self.unhedged, hops=request.hops, copy=copy,
        )  # fmt: skip
        if request.trace and self.trails is not None:
            self.trails.begin(one)
        if not self._arrived:
            loop.call_soon(self._submit_arrived)
        self._arrived.append(one)
        future.add_done_callback(lambda done: self._abandoned(one) if done.cancelled() else None)
        return future

    def _rows_of(self, asked: InferRequest | Infer, frames: tuple[Buffer, ...] | list[Buffer]) -> int:
        """Raises what `Validate` does, and SequenceLost for a step where nothing is here yet: whoever kept the sequence
        was here before a restart."""
        try:
            return self._validate(asked.model, asked.version, asked.inputs, frames)
        except errors.Unavailable as error:
            if asked.sequence and not asked.sequence_start:
                raise errors.SequenceLost(f"{error.text}, nor is the sequence", hint="begin it again") from error
            raise

    def _submit_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._handle(Submit(arrived))

    def _abandoned(self, request: Request) -> None:
        self._handle(Cancel(request))

    def from_client(self, peer: Peer, message: Infer, frames: list[Buffer]) -> None:
        """Requests of a client peer; several may ride in one message."""
        try:
            rows = self._rows_of(message, frames)
            parts = _parts(message, frames, rows)
        except errors.MsrtError as error:
            peer.send(InferFailed(message.ids, error.code, error.text, error.hint))
            return
        deadline = self._world.now() + message.deadline_ms / 1000
        mine = self._of_client.setdefault(peer, {})
        requests = []
        for ident, (inputs, own) in zip(message.ids, parts, strict=True):
            if ident in mine:
                continue
            request = Request(
                message.model, inputs, own, deadline, _ClientToken(peer, ident),
                message.version, message.outputs, message.trace, message.priority,
                message.sequence, message.sequence_start, message.sequence_end,
                hedgeable=message.model not in self.unhedged, hops=message.hops,
            )  # fmt: skip
            mine[ident] = request
            requests.append(request)
        self._handle(Submit(requests))

    def client_cancelled(self, peer: Peer, message: InferCancel) -> None:
        """Nobody waits for these any more."""
        mine = self._of_client.get(peer, {})
        for ident in message.ids:
            request = mine.pop(ident, None)
            if request is not None:
                self._handle(Cancel(request))

    def client_gone(self, peer: Peer) -> None:
        """A client's session is over: what it asked is not computed any more."""
        for request in self._of_client.pop(peer, {}).values():
            self._handle(Cancel(request))

    # --- performing ---------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        now = self._world.now()
        actions = self._dispatcher.handle(event, now)
        self._perform(actions, now)
        if self.trails is not None and self.trails.active:
            self.trails.saw(event, actions, now)
        due = self._dispatcher.next_deadline()
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._handle(Tick())

    def _perform(self, actions: list[Action], now: float) -> None:
        replies: list[Reply] = []
        for action in actions:
            if isinstance(action, Reply):
                replies.append(action)
            elif isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Reject):
                if not (isinstance(action.error, FULL) and self.spill(action.request, action.error)):
                    self._reject(action, now)
            elif isinstance(action, Recall):
                self._recall(action)
            elif isinstance(action, Record):
                self.record(action.entry)
        if replies:
            self._answer(replies, now)

    def _answer(self, replies: list[Reply], now: float) -> None:
        """Each caller its own; what goes to one client of one batch goes in one message."""
        batches: dict[tuple[int, Peer], list[Reply]] = {}
        counted: Inferred | None = None
        for reply in replies:
            answer, token = reply.answer, reply.request.token
            if not reply.request.copy:
                if answer is not counted:  # the replies of a batch follow each other
                    counted, row = answer, self._tally.batch(reply.request.model, answer, now)
                row.answered(now - reply.request.since)
            if isinstance(token, _ClientToken):
                batches.setdefault((id(answer), token.peer), []).append(reply)
            elif not token.done():  # type: ignore[attr-defined]
                outcome = InferAnswer(answer.version, answer.variant, answer.device, reply.outputs, reply.frames)
                token.set_result(outcome)  # type: ignore[attr-defined]
        for (_, peer), batch in batches.items():
            self._reply(peer, batch)

    def _recall(self, action: Recall) -> None:
        worker = self._workers.get(action.worker)
        if worker is not None:
            with contextlib.suppress(errors.Disconnected, errors.Overloaded):
                worker.send(InferCancel(action.ids))

    def _send(self, action: Send) -> None:
        worker = self._workers.get(action.worker)
        if worker is None:
            self._refused(action, errors.Disconnected("the device is away"))
            return
        try:
            worker.send(action.message, action.frames)
        except errors.MsrtError as error:  # also a header that no packet can carry: the others must not suffer
            self._refused(action, error)

    def _refused(self, action: Send, error: errors.MsrtError) -> None:
        failed = InferFailed(action.message.ids, error.code, error.text)
        asyncio.get_running_loop().call_soon(self._handle, Failed(action.worker, failed))

    def _reject(self, action: Reject, now: float) -> None:
        token, error = action.request.token, action.error
        if not action.request.copy:
            row = self._tally.row(action.request.model, action.request.version)
            row.failed(error.code, now - action.request.since)
        if isinstance(token, _ClientToken):
            self._of_client.get(token.peer, {}).pop(token.id, None)
            wait = int(getattr(error, "retry_after", 0) * 1000)
            with contextlib.suppress(errors.Disconnected, errors.Overloaded):
                token.peer.send(InferFailed((token.id,), error.code, error.text, error.hint, wait))
        elif not token.done():  # type: ignore[attr-defined]
            token.set_exception(error)  # type: ignore[attr-defined]

    # --- answered elsewhere -------------------------------------------------------------------------------

    @staticmethod
    def asker(request: Request) -> str:
        """The node that passed a request here; empty for one of our own callers."""
        return request.token.peer.node if isinstance(request.token, _ClientToken) else ""

    def passed(self, request: Request, answer: InferAnswer) -> None:
        """Somebody else answered what was spilled."""
        token = request.token
        self._tally.row(request.model, answer.version).passed(self._world.now() - request.since)
        if isinstance(token, _ClientToken):
            if self._of_client.get(token.peer, {}).pop(token.id, None) is None:
                return
            message = Inferred(
                (token.id,), (request.rows,), request.model, answer.version, answer.variant, answer.device,
                answer.outputs, marks=dict(answer.marks),
            )  # fmt: skip
            _answer(token.peer, message, list(answer.frames))
        elif not token.done():  # type: ignore[attr-defined]
            token.set_result(answer)  # type: ignore[attr-defined]

    def not_passed(self, request: Request, error: errors.MsrtError) -> None:
        """Nobody else could either: what this region said holds."""
        self._reject(Reject(request, error), self._world.now())

    def _reply(self, peer: Peer, replies: list[Reply]) -> None:
        """All of one batch that is one client's goes back in one message."""
        mine = self._of_client.get(peer)
        if mine is None:
            return
        for reply in replies:
            mine.pop(reply.request.token.id, None)  # type: ignore[attr-defined]
        if len(replies) == 1:
            self._join(peer, replies)
            return
        limit = peer.limit - wire.HEADER_LIMIT // 16
        while replies:  # the client's link may take less than the device's
            count = _fitting(replies, limit)
            self._join(peer, replies[:count])
            replies = replies[count:]

    @staticmethod
    def _join(peer: Peer, replies: list[Reply]) -> None:
        """One message with all these answers."""
        ids = tuple([r.request.token.id for r in replies])  # type: ignore[attr-defined]
        first, answer = replies[0], replies[0].answer
        outputs, frames = first.outputs, first.frames
        if len(replies) > 1:
            rows = sum(r.request.rows for r in replies)
            outputs = tuple(TensorSpec(o.name, o.dtype, (rows, *o.shape[1:])) for o in outputs)
            frames = [b"".join(r.frames[i] for r in replies) for i in range(len(outputs))]
        message = Inferred(
            ids, tuple([r.request.rows for r in replies]), answer.model, answer.version, answer.variant, answer.device,
            outputs, answer.compute_us,
        )  # fmt: skip
        _answer(peer, message, list(frames))


def _fitting(replies: list[Reply], limit: int) -> int:
    """How many of these answers fit one message, at least one."""
    size = 0
    for count, reply in enumerate(replies):
        size += sum(map(frame_size, reply.frames))
        if size > limit:
            return max(1, count)
    return len(replies)


def _answer(peer: Peer, message: Inferred, frames: list[Buffer]) -> None:
    """Say it; an answer that the client's link cannot carry is an error of its own, with its size."""
    size = sum(map(frame_size, frames)) + wire.HEADER_ROOM
    try:
        if size <= peer.limit:
            peer.send(message, frames)
            return
        error = errors.FrameTooLarge(size, peer.limit, "answer")
    except errors.FrameTooLarge as header:
        error = header
    except (errors.Disconnected, errors.Overloaded):
        return
    with contextlib.suppress(errors.Disconnected, errors.Overloaded):
        peer.send(InferFailed(message.ids, error.code, error.text, "ask for fewer rows or outputs at a time"))


def _parts(message: Infer, frames: list[Buffer], rows: int) -> list[tuple[tuple[TensorSpec, ...], tuple[Buffer, ...]]]:
    """Each rider's own inputs and bytes. Raises InvalidTensor when the rows do not add up."""
    if len(message.ids) == 1:
        return [(message.inputs, tuple(frames))]
    if len(message.rows) != len(message.ids) or min(message.rows) < 1 or sum(message.rows) != rows:
        raise errors.InvalidTensor(f"{len(message.ids)} requests say {sum(message.rows)} rows, the tensors have {rows}")
    strides = [len(frame) // rows for frame in frames]
    out, start = [], 0
    for count in message.rows:
        inputs = tuple(TensorSpec(i.name, i.dtype, (count, *i.shape[1:])) for i in message.inputs)
        own = tuple(f[start * s : (start + count) * s] for f, s in zip(frames, strides, strict=True))
        out.append((inputs, own))
        start += count
    return out
