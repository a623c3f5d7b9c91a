"""The dispatcher: one table of events, one list of actions."""

from __future__ import annotations

import random  # noqa: TID251 - the type only; the object is passed in
from collections.abc import Callable, Iterable

from msrt.dispatch import watch
from msrt.dispatch.batching import parts_of
from msrt.dispatch.config import Config, Counters
from msrt.dispatch.events import (
    Action,
    Answered,
    Cancel,
    Event,
    Failed,
    ModelsReady,
    Reject,
    Reply,
    Request,
    State,
    Submit,
    Tick,
    VersionTable,
    WorkerDown,
    WorkerUp,
)
from msrt.dispatch.flow import BAD_ANSWER, STALLED, Flow
from msrt.dispatch.retry import FINAL, too_late
from msrt.dispatch.roster import CANARY, Pool, Roster, Slot, Worker
from msrt.errors import MsrtError
from msrt.protocol.messages import InferFailed

__all__ = ["Dispatcher"]

SHELL_SAYS = frozenset({"disconnected", "overloaded"})
"""Codes that may come from the link and not from the worker: they do not prove that it lives."""


class Dispatcher:
    """Spreads requests over workers. Pure: time is an argument, chance is passed in, the shell performs the actions.

    Each submitted request gets exactly one Reply or Reject by its deadline, whatever workers do, provided that Tick
    comes at `next_deadline()`; a cancelled one gets none.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.counters = Counters()
        self.roster = Roster()
        self.flow = Flow(config, rng, self.roster, self.counters)
        self._table: dict[type, Callable[..., list[Action]]] = {
            Submit: self._submit,
            Answered: self._answered,
            Failed: self._failed,
            Tick: self._tick,
            Cancel: self._cancel,
            WorkerUp: self._worker_up,
            WorkerDown: self._worker_down,
            ModelsReady: self._models_ready,
            VersionTable: self._version_table,
        }

    def handle(self, event: Event, now: float) -> list[Action]:
        """What to do about it, in this order. `now` never goes back."""
        return self._table[type(event)](event, now)

    def next_deadline(self) -> float:
        """When Tick is due at the latest; infinite while nothing is open. Cheap: ask after every event."""
        flow = self.flow
        return min(flow.deadlines.next, flow.wake)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self.flow.admission.items

    @property
    def open_requests(self) -> int:
        """Waiting or in flight."""
        return len(self.flow.live)

    # --- callers --------------------------------------------------------------------------------------------

    def _submit(self, event: Submit, now: float) -> list[Action]:
        out: list[Action] = []
        flow = self.flow
        pools: list[Pool] = []
        for request in event.requests:
            if request.state is not State.NEW:
                continue  # cancelled before it came here
            try:
                pool = flow.admit(request, now)
            except MsrtError as error:
                self.counters.rejected += 1
                request.state = State.SETTLED
                out.append(Reject(request, error))
            else:
                if pool not in pools:
                    pools.append(pool)
        self.counters.submitted += len(event.requests)
        for pool in pools:
            if pool.open:
                flow.pump(pool, now, out)
        return out

    def _cancel(self, event: Cancel, now: float) -> list[Action]:
        out: list[Action] = []
        request = event.request
        if request.state is State.NEW:
            request.state = State.SETTLED
        elif request.state is not State.SETTLED:
            self.flow.settle(request, "", out)
            self._pump_all(now, out)
        return out

    # --- workers answer -------------------------------------------------------------------------------------

    def _answered(self, event: Answered, now: float) -> list[Action]:
        message = event.message
        ids = message.ids
        worker = self.roster.workers.get(event.worker)
        if worker is None or not ids:
            self.counters.late += len(ids)
            return []
        out: list[Action] = []
        healed = self._heard(worker, now)
        slot = self._landed(worker, ids, now)
        live = self.flow.live
        requests = [live.get(number) for number in ids]
        parts = parts_of(message, event.frames, requests)
        if parts is None:
            self._answered_wrongly(worker, slot, requests, now, out)
            return out
        node = worker.node
        replies: list[Reply] = []
        for request, (specs, frames) in zip(requests, parts, strict=True):
            if request is not None and request.state is not State.SETTLED and node in request.tried:
                self.flow.settle(request, node, out)
                replies.append(Reply(request, message, specs, frames))
        self.counters.replied += len(replies)
        self.counters.late += len(ids) - len(replies)
        self.flow.admission.served(len(replies), now)
        if healed:
            self._pump_all(now, out)
        elif slot is not None:
            self._pump_slot(slot, now, out)
        out += replies  # last: the worker's next batch is on its way while callers are answered
        return out

    def _answered_wrongly(
        self, worker: Worker, slot: Slot | None, requests: list[Request | None], now: float, out: list[Action]
    ) -> None:
        """Nobody gets rows that may be another's: each goes again, alone, with this model at rest for a moment."""
        self.counters.invalid += 1
        ids = tuple([request.id for request in requests if request is not None])
        why = InferFailed(ids, BAD_ANSWER, "the output's shape or byte count does not match what was asked")
        self.flow.take_back(worker, requests, why, now, out)
        if slot is not None:
            self._rest(slot, now + self.config.pause_s)
        self._pump_all(now, out)

    def _failed(self, event: Failed, now: float) -> list[Action]:
        message = event.message
        worker = self.roster.workers.get(event.worker)
        if worker is None or not message.ids:
            return []
        out: list[Action] = []
        if message.code not in SHELL_SAYS:
            self._heard(worker, now)
        elif worker.suspect:
            watch.put_off_probe(worker, self.config, now)
        flight = worker.flights.get(message.ids[0])
        slot = self._landed(worker, message.ids, None)
        requests = [self.flow.live.get(number) for number in message.ids]
        if message.code in FINAL:
            if flight is not None and len(flight.ids) > 1:
                self.flow.take_back(worker, requests, message, now, out)
            else:
                self.flow.refuse(worker, requests, message, out)
        else:
            if slot is not None:
                self._rest(slot, now + max(message.retry_after_ms / 1000, self.config.pause_s))
            self.flow.take_back(worker, requests, message, now, out)
        self._pump_all(now, out)
        return out

    def _heard(self, worker: Worker, now: float) -> bool:
        """It said something about its work; true if it was thought to be stuck."""
        worker.answered = now
        if not worker.suspect:
            return False
        worker.suspect = worker.probing = False
        worker.probes = 0
        worker.refresh(self.config.window)
        return True

    def _landed(self, worker: Worker, ids: tuple[int, ...], now: float | None) -> Slot | None:
        """Take the ids out of flight; `now` to learn from the time it took."""
        flight = worker.flights.get(ids[0])
        if flight is None:
            for number in ids[1:]:
                worker.forget(number, self.config.window)
            return None
        slot = flight.slot
        if now is not None:
            slot.latency.add(now - flight.sent)
            slot.typical_rows += 0.2 * (flight.rows - slot.typical_rows) if slot.typical_rows else flight.rows
        if flight.ids == ids:
            worker.land(flight, self.config.window)
        else:
            for number in ids:
                worker.forget(number, self.config.window)
        return slot

    def _rest(self, slot: Slot, until: float) -> None:
        slot.paused_until = until
        slot.refresh(self.config.window)
        self.flow.wake = min(self.flow.wake, until)

    # --- workers come and go ----------------------------------------------------------------------------------

    def _worker_up(self, event: WorkerUp, now: float) -> list[Action]:
        out = self._worker_down(WorkerDown(event.worker), now)
        self.roster.workers[event.worker] = Worker(event.worker, event.limit)
        return out

    def _worker_down(self, event: WorkerDown, now: float) -> list[Action]:
        out: list[Action] = []
        worker = self.roster.workers.pop(event.worker, None)
        if worker is None:
            return out
        models = {slot.model for slot in worker.slots.values()}
        self._rebuild(models)
        ids = tuple(worker.flights)
        why = InferFailed(ids, "disconnected", "the worker went away")
        self.flow.take_back(worker, list(self.flow.live.values()), why, now, out)
        self._pump_all(now, out)
        return out

    def _models_ready(self, event: ModelsReady, now: float) -> list[Action]:
        out: list[Action] = []
        worker = self.roster.workers.get(event.worker)
        if worker is None:
            return out
        self._rebuild(self.roster.report(worker, event.models))
        worker.refresh(self.config.window)
        self._pump_all(now, out)
        return out

    def _version_table(self, event: VersionTable, now: float) -> list[Action]:
        out: list[Action] = []
        if event.stable or event.candidate:
            self.roster.tables[event.model] = event
        else:
            self.roster.tables.pop(event.model, None)
        self._rebuild({event.model})
        self._pump_all(now, out)
        return out

    def _rebuild(self, models: Iterable[str]) -> None:
        for model in models:
            for pool in self.roster.rebuild(model):
                if pool.retired and pool.version == CANARY and (model, 0) in self.roster.pools:
                    self.flow.move(pool, self.roster.pools[model, 0])
        self.flow.wake = 0.0

    # --- time -------------------------------------------------------------------------------------------------

    def _tick(self, _event: Tick, now: float) -> list[Action]:
        out: list[Action] = []
        flow = self.flow
        for request in flow.deadlines.expired(now):
            flow.reject(request, too_late(), out)
        for worker in self.roster.workers.values():
            for flight in watch.overdue(worker, self.config, self.counters, now):
                why = InferFailed(flight.ids, STALLED, "the worker fell silent")
                self.flow.take_back(worker, [flow.live.get(number) for number in flight.ids], why, now, out)
            watch.wake_slots(worker, self.config.window, now)
        for pool in self.roster.pools.values():
            if pool.items:
                watch.shed_old(pool, flow, now, out)
        self._pump_all(now, out)
        flow.wake = watch.next_wake(self.roster, self.config)
        return out

    def _pump_slot(self, slot: Slot, now: float, out: list[Action]) -> None:
        for pool in slot.pools:
            if pool.items:
                self.flow.pump(pool, now, out)

    def _pump_all(self, now: float, out: list[Action]) -> None:
        for pool in self.roster.pools.values():
            if pool.items and pool.open:
                self.flow.pump(pool, now, out)
