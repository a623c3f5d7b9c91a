"""The books of a request's way: admitted, queued, given back or settled. `launch` takes it out to a worker."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type only; the object is passed in
from collections.abc import Iterable

from msrt.dispatch.admission import Admission
from msrt.dispatch.breaker import Circuit
from msrt.dispatch.budget import Budget
from msrt.dispatch.config import Config, Counters
from msrt.dispatch.deadlines import Deadlines
from msrt.dispatch.decisions import Recorder, Refusal
from msrt.dispatch.events import Action, Recall, Record, Reject, Request, State
from msrt.dispatch.retry import BAD_ANSWER, FINAL, STALLED, too_late, verdict
from msrt.dispatch.roster import CANARY, Flight, Pool, Roster, Worker
from msrt.dispatch.sequences import Sequences
from msrt.errors import FrameTooLarge, MsrtError, NotFound, Overloaded, SequenceLost, Unavailable
from msrt.protocol.messages import InferFailed, Inferred

__all__ = ["Flow", "of_canary"]


class Flow:
    """Every open request is in `live`, and in exactly one of: a lane of its pool, a flight (two, once hedged)."""

    def __init__(self, config: Config, rng: random.Random, roster: Roster, counters: Counters) -> None:
        self.config = config
        self.counters = counters
        self.roster = roster
        self.random = rng
        self.admission = Admission(config)
        self.deadlines = Deadlines()
        self.retries = Budget(config.retry_ratio, config.retry_per_s, config.retry_most)
        self.sequences = Sequences(config.max_sequences, config.sequence_idle_s)
        self.recorder = Recorder(config.record_share, rng) if config.record_share else None
        self.live: dict[int, Request] = {}
        self.wake = math.inf
        """Nothing but a deadline or a hedge is due before."""
        self._serial = 0

    def admit(self, request: Request, now: float) -> Pool:
        """Let it wait. Raises what the caller is to be told."""
        request.since = now
        if not request.deadline > now:
            raise too_late()
        pool = self._place(request, now) if request.sequence else self._route(request)
        lane = pool.lane(request)
        lane.measure(request)
        try:
            self._check(request, pool, now)
        except MsrtError:
            if request.sequence_start:
                self.sequences.end(request.model, request.sequence)  # it never began
            raise
        request.deadline = min(request.deadline, now + self.config.max_deadline_s)
        self._serial += 1
        request.id = self._serial
        self.live[request.id] = request
        self.deadlines.add(request)
        lane.queue.append(request)
        self.wait(request, pool, now)
        return pool

    def _check(self, request: Request, pool: Pool, now: float) -> None:
        """Whether there is room and time for it. Raises FrameTooLarge, Overloaded."""
        size = request.size
        if size > pool.limit and pool.slots:
            raise FrameTooLarge(size, pool.limit, "request")
        self.admission.check(request)
        if pool.slots:
            try:
                self.admission.check_deadline(request, pool, now)
            except Overloaded:
                self.counters.hopeless += 1
                raise

    def turn_away(self, request: Request, error: MsrtError, now: float, out: list[Action]) -> None:
        """It is not let in."""
        request.state = State.SETTLED
        counters, reason = self.counters, getattr(error, "reason", "") or error.code
        counters.rejected += 1
        counters.refused[reason] = counters.refused.get(reason, 0) + 1
        if self.recorder is not None and self.recorder.drawn():
            entry = Refusal(
                now, request.model, request.version, reason, request.deadline - now, request.rows, request.size,
                self.admission.items, self.admission.rate, getattr(error, "need_s", 0.0), request.priority,
            )  # fmt: skip
            out.append(Record(entry))
        out.append(Reject(request, error))

    def _route(self, request: Request) -> Pool:
        pools = self.roster.pools
        pool = pools.get((request.model, request.version))
        if pool is None or request.version < 0:
            name = f"{request.model}@{request.version}" if request.version else request.model
            raise NotFound(f"no model {name} is served here", hint="msrt model rollout brings one to devices")
        if pool.share and self.random.random() < pool.share:
            canary = pools[request.model, CANARY]
            if any(slot.breaker.circuit is not Circuit.OPEN or slot.forced for slot in canary.slots):
                return canary
        return pool

    def _place(self, request: Request, now: float) -> Pool:
        """The private pool of the worker where a sequence lives. Raises SequenceLost, Overloaded, Unavailable."""
        request.alone, request.hedgeable = True, False
        model, name, roster = request.model, request.sequence, self.roster
        if request.sequence_start:
            pool = self._route(request)
            able = [slot for slot in pool.slots if not slot.worker.suspect] or pool.slots
            if not able:
                raise Unavailable(f"no worker holds {model} ready")
            slot = min(able, key=lambda each: (each.load(now), each.worker.node))
            if not self.sequences.bind(model, name, slot.worker.node, slot.version, now):
                raise Overloaded(f"{len(self.sequences)} sequences live here already")
        else:
            found = self.sequences.place(model, name, now)
            worker = roster.workers.get(found[0]) if found else None
            known = worker.slots.get((model, found[1])) if worker and found else None
            if known is None:
                self.sequences.end(model, name)
                self.counters.sequences_lost += 1
                raise SequenceLost(f"nobody keeps the sequence {name!r} of {model}", hint="begin it again")
            slot = known
        if slot.private is None:
            slot.private = Pool(model, slot.version)
            slot.private.fill((slot,))
        return slot.private

    def wait(self, request: Request, pool: Pool, now: float) -> None:
        """Count it as waiting; its lane holds it already."""
        request.state = State.QUEUED
        request.place = pool
        request.queued = now
        pool.items += 1
        pool.rows += request.rows
        self.admission.entered(request.size)
        due = now + (self.config.max_age_s if pool.slots else self.config.empty_s)
        if pool.reserve:
            due = now + self.config.cold_wait_s
        self.wake = min(self.wake, due)

    def _leave(self, request: Request) -> None:
        pool = request.place
        assert isinstance(pool, Pool)
        pool.items -= 1
        pool.rows -= request.rows
        self.admission.left(request.size)

    def move(self, source: Pool, target: Pool) -> None:
        """Let those who wait in a pool that is no more wait in another."""
        for _, lane in list(source.lanes.items()):
            for request in lane.queue:
                if request.state is State.QUEUED:
                    source.items -= 1
                    source.rows -= request.rows
                    target.items += 1
                    target.rows += request.rows
                    request.place = target
                    target.lane(request).queue.append(request)
        source.lanes.clear()

    # --- back, or done --------------------------------------------------------------------------------------

    def take_back(
        self, worker: Worker, requests: Iterable[Request | None], why: InferFailed, now: float, out: list[Action]
    ) -> None:
        """Those that this worker was the last to have wait again, in their old order. One of them may have spoilt the
        batch: if that is possible they ride alone."""
        mine = [request for request in requests if request is not None and flies_with(request, worker)]
        spoilt = why.code in FINAL or why.code == BAD_ANSWER
        for request in reversed(mine):
            request.alone = request.alone or spoilt
            self._again(request, why, now, out)

    def refuse(self, worker: Worker, requests: Iterable[Request | None], why: InferFailed, out: list[Action]) -> None:
        """The requests are at fault: nobody else is asked."""
        for request in requests:
            if request is not None and flies_with(request, worker):
                if why.code == "sequence_lost":
                    self.sequences.end(request.model, request.sequence)
                    self.counters.sequences_lost += 1
                self.reject(request, verdict(request, why.code, why.text, why.hint), out)

    def _again(self, request: Request, why: InferFailed, now: float, out: list[Action]) -> None:
        """A worker will not answer this one: let it wait for another, or tell the caller."""
        place = request.place
        assert isinstance(place, Pool)
        if request.sequence:
            self._lose(request, why, out)
            return
        canary = place.version == CANARY  # what the candidate could not do, the stable version does
        if not place.slots or canary:
            place = self.roster.pools.get((request.model, request.version), place)
        spent = request.attempts >= self.config.max_attempts or place.retired
        if not spent and not canary and not self.retries.spend(1, now):  # a canary's share is bound enough
            self.counters.unbudgeted += 1
            spent = True
        if spent:
            if why.code == STALLED:
                return  # it may answer yet: the deadline decides
            self.reject(request, verdict(request, why.code, why.text, why.hint), out)
            return
        if request.attempts >= self.config.max_attempts - 1:
            request.alone = True
        self.counters.retried += 1
        place.lane(request).queue.appendleft(request)
        self.wait(request, place, now)

    def _lose(self, request: Request, why: InferFailed, out: list[Action]) -> None:
        """A sequence's request is asked of nobody else: its state is with that worker. A silent one may answer yet."""
        if why.code == STALLED:
            return
        error: MsrtError
        if why.code == "disconnected":
            self.sequences.end(request.model, request.sequence)
            self.counters.sequences_lost += 1
            error = SequenceLost(
                f"the worker that kept the sequence {request.sequence!r} went away", hint="begin it again"
            )
        else:
            error = verdict(request, why.code, why.text, why.hint)
        self.reject(request, error, out)

    def doubt(self, request: Request) -> None:
        """Nobody waits for it any more. If it was sent, nobody knows whether that step was taken: what would follow
        must not go on as if it had not been."""
        if request.sequence and request.state is State.FLYING:
            self.sequences.end(request.model, request.sequence)

    def lose_queued(self, pool: Pool, out: list[Action]) -> None:
        """A worker is gone: what waited for its sequences is lost."""
        for _, lane in list(pool.lanes.items()):
            for request in [each for each in lane.queue if each.state is State.QUEUED]:
                self._lose(request, InferFailed((request.id,), "disconnected", ""), out)

    def note(self, flight: Flight, code: str, now: float, out: list[Action], answer: Inferred | None = None) -> None:
        """What became of a batch, if the decision about it was drawn."""
        if flight.decision and self.recorder is not None:
            computed, waited = (answer.compute_us / 1e6, answer.queue_us / 1e6) if answer is not None else (0.0, 0.0)
            out.append(Record(self.recorder.outcome(flight, code, now, computed, waited)))

    def reject(self, request: Request, error: MsrtError, out: list[Action]) -> None:
        self.settle(request, "", out)
        counters = self.counters
        counters.rejected += 1
        counters.given_up[error.code] = counters.given_up.get(error.code, 0) + 1
        out.append(Reject(request, error))

    def settle(self, request: Request, by: str, out: list[Action]) -> None:
        """Forget it; workers other than `by` that may still have it are told."""
        if request.state is State.QUEUED:
            self._leave(request)
        request.state = State.SETTLED
        del self.live[request.id]
        self.deadlines.remove(request)
        if request.sequence_end:
            self.sequences.end(request.model, request.sequence)
        if by and len(request.tried) == 1:
            return
        for node in dict.fromkeys(request.tried):
            worker = self.roster.workers.get(node)
            if worker is not None and node != by:
                worker.forget(request.id)
                out.append(Recall(node, (request.id,)))


def of_canary(requests: Iterable[Request | None]) -> bool:
    """Whether these rode with the candidate for its share of the traffic."""
    return any(isinstance(r.place, Pool) and r.place.version == CANARY for r in requests if r is not None)


def flies_with(request: Request, worker: Worker) -> bool:
    """Whether this worker was the last to get it, and nobody took it back since."""
    return request.state is State.FLYING and request.tried[-1] == worker.node
