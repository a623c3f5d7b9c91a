"""What happened to a dispatcher's traced requests, as spans: waiting, each try on a device, its own times.

A shell that has a tracer tells it of a traced request (`begin`), and of each event with the actions that followed
(`saw`) while there is any (`active`). Devices make no spans and need no tracing library: an answer carries how long
its batch waited and was computed there, and the device's spans are made from that, so that a microcontroller is traced
as well. Its clock does not matter: what neither waited nor computed was the way, half of it before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msrt.dispatch.events import (
    Action,
    Answered,
    Cancel,
    Event,
    Failed,
    Reject,
    Reply,
    Request,
    Send,
    State,
    WorkerDown,
)
from msrt.protocol.messages import Inferred, Mark
from msrt.telemetry.context import is_sampled, parse
from msrt.telemetry.spans import CLIENT, SERVER, Span, Tracer

__all__ = ["Trails"]

LINKS: Final = 16
"""From the first of a batch; all to all would be thousands."""


class _Trail:
    """One request's. `flying`: its tries that nobody answered yet, by node."""

    __slots__ = ("flying", "request", "told", "tries")

    def __init__(self, request: Request, told: dict[str, Mark] | None) -> None:
        self.request, self.told = request, told
        self.flying: dict[str, Span] = {}
        self.tries = 0


class Trails:
    """`name(node)`: a worker's name, for people."""

    def __init__(self, tracer: Tracer, name: Callable[[str], str]) -> None:
        self._tracer, self._name = tracer, name
        self._fresh: list[_Trail] = []
        self._open: dict[int, _Trail] = {}
        self._told: dict[int, dict[str, Mark]] = {}
        self.active = False

    # --- for those who want to tell the caller ------------------------------------------------------------------

    def listen(self, trace_id: int) -> dict[str, Mark]:
        """Where the times of this trace are put down until `forget`."""
        return self._told.setdefault(trace_id, {})

    def forget(self, trace_id: int) -> None:
        self._told.pop(trace_id, None)

    # --- for the dispatcher's shell -----------------------------------------------------------------------------

    def begin(self, request: Request) -> None:
        """It is about to be submitted."""
        if is_sampled(request.trace):
            context = parse(request.trace)
            self._fresh.append(_Trail(request, self._told.get(context.trace_id) if context else None))
            self.active = True

    def saw(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """An event, and what was done about it."""
        if self._fresh:
            self._index()
        if isinstance(event, Answered):
            self._answered(event.worker, event.message, actions, now)
        elif isinstance(event, Failed):
            for number in event.message.ids:
                self._land(number, event.worker, event.message.code, now)
        elif isinstance(event, WorkerDown):
            for number in list(self._open):
                self._land(number, event.worker, "disconnected", now)
        elif isinstance(event, Cancel):
            self._settled(event.request, "cancelled", now)
        for action in actions:
            if isinstance(action, Send):
                self._sent(action, now)
            elif isinstance(action, Reply):
                self._settled(action.request, "", now)
            elif isinstance(action, Reject):
                self._settled(action.request, action.error.code, now)
        self.active = bool(self._open or self._fresh)

    def _index(self) -> None:
        waiting = []
        for trail in self._fresh:
            if trail.request.id:
                self._open[trail.request.id] = trail
            elif trail.request.state is State.NEW:
                waiting.append(trail)  # what was refused at the door has no parts: its request says why
        self._fresh = waiting

    def _sent(self, action: Send, now: float) -> None:
        message, batch = action.message, []
        for number in message.ids:
            trail = self._open.get(number)
            if trail is None:
                continue
            request = trail.request
            trail.tries += 1
            reason = "first" if trail.tries == 1 else "hedge" if request.hedged and trail.flying else "retry"
            if reason != "hedge":
                wait = self._tracer.start("queue", request.trace, began=request.queued)
                wait.set(model=request.model, priority=request.priority).end(now)
                for node in list(trail.flying):
                    self._land(number, node, "stalled", now)
            span = self._tracer.start("attempt", request.trace, CLIENT, now).set(
                model=request.model, version=message.version, device=self._name(action.worker), node=action.worker,
                attempt=trail.tries, reason=reason, batch_requests=len(message.ids), batch_rows=sum(message.rows),
            )  # fmt: skip
            trail.flying[action.worker] = span
            batch.append(span)
            if trail.told is not None and trail.tries == 1:
                trail.told["trace_queue_us"] = _us(now - request.since)
        if len(batch) > 1:  # they rode together: the first names some of the others, and each of them the first
            first, *others = batch
            first.links = [other.context for other in others[:LINKS]]
            for other in others:
                other.links = [first.context]

    def _answered(self, worker: str, message: Inferred, actions: Sequence[Action], now: float) -> None:
        used = {action.request.id for action in actions if isinstance(action, Reply)}
        for number in message.ids:
            trail = self._open.get(number)
            span = trail.flying.get(worker) if trail is not None else None
            if trail is None or span is None:
                continue
            way = self._device(span, message, now)
            if trail.told is not None and number in used:
                trail.told.update(
                    trace_attempts=trail.tries, trace_device_queue_us=message.queue_us,
                    trace_compute_us=message.compute_us, trace_way_us=_us(way),
                )  # fmt: skip
            self._land(number, worker, "" if number in used else "bad_answer", now)

    def _device(self, span: Span, message: Inferred, now: float) -> float:
        """The device's spans; seconds of the way there and back."""
        waited, computed = message.queue_us / 1e6, message.compute_us / 1e6
        way = max(now - span.began - waited - computed, 0.0)
        came = span.began + way / 2
        begun = min(came + waited, now)  # its clock may run faster than ours
        done = min(begun + computed, now)
        device = self._tracer.start("device", span.trace, SERVER, came)
        device.set(model=message.model, version=message.version, variant=message.variant, device=message.device)
        for name, began, ended in (("device.queue", came, begun), ("device.compute", begun, done)):
            part = self._tracer.start(name, device.trace, began=began)
            part.owner = message.device
            part.end(ended)
        device.owner = message.device
        device.end(done)
        span.set(way_us=_us(way))
        return way

    def _land(self, number: int, worker: str, code: str, now: float) -> None:
        trail = self._open.get(number)
        span = trail.flying.pop(worker, None) if trail is not None else None
        if span is not None:
            span.set(outcome=code or "ok").end(now, "" if code == "lost_race" else code)

    def _settled(self, request: Request, code: str, now: float) -> None:
        trail = self._open.get(request.id)
        if trail is None:
            return
        if code and not trail.flying:
            wait = self._tracer.start("queue", request.trace, began=request.queued)
            wait.set(model=request.model, outcome=code).end(now, code)
        for node in list(trail.flying):
            self._land(request.id, node, code or "lost_race", now)
        del self._open[request.id]


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
