"""The dispatcher: one table of events, one list of actions."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type only; the object is passed in
from collections.abc import Callable, Iterable

from msrt.dispatch import eject, watch
from msrt.dispatch.batching import Part, has_nan, parts_of
from msrt.dispatch.config import Config, Counters
from msrt.dispatch.events import (
    Action,
    Answered,
    Cancel,
    Event,
    Failed,
    ModelsReady,
    Reply,
    Request,
    State,
    Submit,
    Tick,
    VersionTable,
    WorkerDown,
    WorkerUp,
)
from msrt.dispatch.flow import Flow, of_canary
from msrt.dispatch.launch import Launcher
from msrt.dispatch.learn import learn
from msrt.dispatch.retry import BAD_ANSWER, FINAL, STALLED, too_late
from msrt.dispatch.roster import CANARY, Flight, Pool, Roster, Slot, Worker
from msrt.errors import MsrtError
from msrt.protocol.messages import InferFailed

__all__ = ["Dispatcher"]

SHELL_SAYS = frozenset({"disconnected", "overloaded"})
"""Codes that may come from the link and not from the worker: they do not prove that it lives."""
WANTS = frozenset({"not_found", "unavailable"})
"""A worker that lacks something is not at fault: the model is left alone there for a moment."""


class Dispatcher:
    """Spreads requests over workers. Pure: time is an argument, chance is passed in, the shell performs the actions.

    Each submitted request gets exactly one Reply or Reject by its deadline, whatever workers do, provided that Tick
    comes at `next_deadline()`; a cancelled one gets none.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.counters = Counters()
        self.roster = Roster(config)
        self.flow = Flow(config, rng, self.roster, self.counters)
        self.launcher = Launcher(self.flow)
        self._swept = 0.0
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
        return min(flow.deadlines.next, flow.wake, self.launcher.hedge_at)

    @property
    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self.flow.admission.items

    @property
    def open_requests(self) -> int:
        """Waiting or in flight."""
        return len(self.flow.live)

    def waiting(self, model: str) -> int:
        """Requests for one model that wait for a worker."""
        return sum(pool.items for pool in self.roster.pools.values() if pool.model == model)

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
                flow.turn_away(request, error, now, out)
            else:
                if pool not in pools:
                    pools.append(pool)
        self.counters.submitted += len(event.requests)
        for pool in pools:
            if pool.open:
                self.launcher.pump(pool, now, out)
        return out

    def _cancel(self, event: Cancel, now: float) -> list[Action]:
        out: list[Action] = []
        request = event.request
        if request.state is State.NEW:
            request.state = State.SETTLED
        elif request.state is not State.SETTLED:
            self.flow.doubt(request)
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
        flight = self._landed(worker, ids)
        live = self.flow.live
        requests = [live.get(number) for number in ids]
        parts = parts_of(message, event.frames, requests)
        if flight is not None and flight.decision:
            self.flow.note(flight, "ok" if parts is not None else BAD_ANSWER, now, out, message)
        if parts is None:
            self._answered_wrongly(worker, flight, requests, now, out)
            return out
        if flight is not None:
            learn(worker, flight, message, now)
        doubtful: set[int] = set()
        if has_nan(message.outputs, event.frames):
            doubtful = self._doubt(worker, requests, parts, now, out)
        node = worker.node
        replies: list[Reply] = []
        for request, (specs, frames) in zip(requests, parts, strict=True):
            if request is not None and request.state is not State.SETTLED and node in request.tried:
                if request.id in doubtful:
                    continue
                if request.doubted:
                    self._second_opinion(request, node, (specs, frames), now)
                if request.expected or request.hedged:
                    self._came(request, node, now)
                self.flow.settle(request, node, out)
                replies.append(Reply(request, message, specs, frames))
        self.counters.replied += len(replies)
        self.counters.late += len(ids) - len(replies) - len(doubtful)
        self.flow.admission.served(len(replies), now)
        if healed:
            self._pump_all(now, out)
        elif flight is not None:
            self._pump_slot(flight.slot, now, out)
        out += replies  # last: the worker's next batch is on its way while callers are answered
        return out

    def _came(self, request: Request, by: str, now: float) -> None:
        """What an answer teaches of others: of those that wait, and of who was asked for it too and was slower."""
        if request.expected:
            self.flow.admission.came(request, now)
        if not request.hedged:
            return
        if by != request.tried[0]:
            self.counters.hedge_wins += 1
        for node in request.tried:
            worker = self.roster.workers.get(node)
            flight = worker.flights.get(request.id) if worker is not None and node != by else None
            if worker is not None and flight is not None:
                watch.outrun(worker, flight, now)
                self.flow.wake = min(self.flow.wake, now + self.config.stall_floor_s)

    def _answered_wrongly(
        self, worker: Worker, flight: Flight | None, requests: list[Request | None], now: float, out: list[Action]
    ) -> None:
        """Nobody gets rows that may be another's: each goes again, alone, with this model at rest for a moment."""
        self.counters.invalid += 1
        ids = tuple([request.id for request in requests if request is not None])
        why = InferFailed(ids, BAD_ANSWER, "the output's shape or byte count does not match what was asked")
        self.flow.take_back(worker, requests, why, now, out)
        if flight is not None:
            self.counters.fault(flight.slot.model, flight.slot.version, len(ids))
            self._blame(flight.slot, now)
            self._rest(flight.slot, now + self.config.pause_s)
        self._pump_all(now, out)

    def _doubt(
        self, worker: Worker, requests: list[Request | None], parts: list[Part], now: float, out: list[Action]
    ) -> set[int]:
        """NaN in an answer: the input's doing, or a sick worker's. Where there is another, it is asked for a second
        opinion (returns the ids of these); until then nobody is blamed."""
        doubtful: set[int] = set()
        for request, (specs, frames) in zip(requests, parts, strict=True):
            if request is None or request.state is not State.FLYING or request.doubted or request.sequence:
                continue
            pool = request.place
            assert isinstance(pool, Pool)
            others = any(slot.worker is not worker and not slot.worker.suspect for slot in pool.slots)
            if others and has_nan(specs, frames) and request.tried[-1] == worker.node:
                request.doubted = worker.node
                doubtful.add(request.id)
                why = InferFailed((request.id,), BAD_ANSWER, "the answer is not a number")
                self.flow.take_back(worker, [request], why, now, out)
        return doubtful

    def _second_opinion(self, request: Request, node: str, part: Part, now: float) -> None:
        """Another worker found numbers where the first found none: the first is sick."""
        sick = self.roster.workers.get(request.doubted)
        if sick is None or request.doubted == node or has_nan(*part):
            return
        self.counters.invalid += 1
        for slot in sick.slots.values():
            if slot.model == request.model and (not request.version or slot.version == request.version):
                self._blame(slot, now)

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
        flight = self._landed(worker, message.ids)
        if flight is not None:
            self.flow.note(flight, message.code, now, out)
        requests = [self.flow.live.get(number) for number in message.ids]
        if message.code in FINAL:
            canary = message.code != "deadline_exceeded" and of_canary(requests)  # perhaps it is the candidate's fault
            if flight is not None and message.code != "deadline_exceeded" and (canary or len(message.ids) == 1):
                self.counters.fault(flight.slot.model, flight.slot.version, 1)
            if canary or len(message.ids) > 1:
                self.flow.take_back(worker, requests, message, now, out)
            else:
                self.flow.refuse(worker, requests, message, out)
        else:
            if flight is not None:
                if message.code not in SHELL_SAYS and message.code not in WANTS:
                    self.counters.fault(flight.slot.model, flight.slot.version, len(message.ids))
                    self._blame(flight.slot, now)
                self._rest(flight.slot, now + max(message.retry_after_ms / 1000, self.config.pause_s))
            self.flow.take_back(worker, requests, message, now, out)
        self._pump_all(now, out)
        return out

    def _heard(self, worker: Worker, now: float) -> bool:
        """It said something about its work; true if it was thought to be stuck."""
        worker.answered = now
        worker.outrun, worker.owes_since = 0, math.inf
        if not worker.suspect:
            return False
        worker.suspect = worker.probing = False
        worker.probes = 0
        worker.refresh()
        return True

    def _landed(self, worker: Worker, ids: tuple[int, ...]) -> Flight | None:
        """Take the ids out of flight."""
        flight = worker.flights.get(ids[0])
        if flight is None:
            for number in ids[1:]:
                worker.forget(number)
        elif flight.ids == ids:
            worker.land(flight)
        else:
            for number in ids:
                worker.forget(number)
        return flight

    def _blame(self, slot: Slot, now: float) -> None:
        """A failure of this model on this worker; enough of them eject it, unless too many are out already."""
        peers = [each for pool in slot.pools for each in pool.slots]
        if eject.may_eject(list(dict.fromkeys(peers)), self.config) > 0 and slot.breaker.failure(now, self.flow.random):
            self.counters.ejected += 1
            slot.refresh()
            self.flow.wake = min(self.flow.wake, slot.breaker.until)

    def _rest(self, slot: Slot, until: float) -> None:
        slot.paused_until = until
        slot.refresh()
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
        for flight in worker.batches():
            self.flow.note(flight, "disconnected", now, out)
        ids = tuple(worker.flights)
        why = InferFailed(ids, "disconnected", "the worker went away")
        self.flow.take_back(worker, list(self.flow.live.values()), why, now, out)
        for slot in worker.slots.values():
            if slot.private is not None:
                self.flow.lose_queued(slot.private, out)
        self.flow.sequences.lost(event.worker)
        self._pump_all(now, out)
        return out

    def _models_ready(self, event: ModelsReady, now: float) -> list[Action]:
        out: list[Action] = []
        worker = self.roster.workers.get(event.worker)
        if worker is None:
            return out
        before = list(worker.slots.values())
        self._rebuild(self.roster.report(worker, event.models))
        worker.refresh()
        for slot in before:
            if slot.private is not None and slot is not worker.slots.get((slot.model, slot.version)):
                self.flow.lose_queued(slot.private, out)
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
        self.launcher.hedge(now, out)
        for request in flow.deadlines.expired(now):
            flow.doubt(request)
            flow.admission.came(request, now, in_time=False)
            flow.reject(request, too_late(), out)
        if now < flow.wake:
            return out
        for worker in self.roster.workers.values():
            for flight in watch.overdue(worker, self.config, self.counters, now):
                why = InferFailed(flight.ids, STALLED, "the worker fell silent")
                flow.note(flight, STALLED, now, out)
                if not worker.suspect:  # it answered others meanwhile
                    self.counters.fault(flight.slot.model, flight.slot.version, len(flight.ids))
                flow.take_back(worker, [flow.live.get(number) for number in flight.ids], why, now, out)
            watch.wake_slots(worker, now)
        if now >= self._swept + self.config.sweep_s:
            self._swept = now
            self.counters.ejected += watch.sweep(self.roster, flow.random, now)
        for pool in self.roster.waiting():
            watch.shed_old(pool, flow, now, out)
            watch.call_up(pool, self.config, now)
        self._pump_all(now, out)
        flow.wake = min(watch.next_wake(self.roster, self._swept), self._held(now))
        return out

    def _held(self, now: float) -> float:
        """When a batch that was held back for more riders is due."""
        return min([self.launcher.held_until(pool, now) for pool in self.roster.waiting()], default=math.inf)

    def _pump_slot(self, slot: Slot, now: float, out: list[Action]) -> None:
        for pool in slot.pools:
            if pool.items:
                self.launcher.pump(pool, now, out)

    def _pump_all(self, now: float, out: list[Action]) -> None:
        for pool in self.roster.waiting():
            if pool.open:
                self.launcher.pump(pool, now, out)
