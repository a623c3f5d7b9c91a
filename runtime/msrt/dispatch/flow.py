"""The way of a request: admitted, queued, launched in a batch, given back or settled."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type only; the object is passed in
from collections.abc import Iterable

from msrt.dispatch.admission import Admission
from msrt.dispatch.balance import choose
from msrt.dispatch.batching import Lane, join
from msrt.dispatch.config import Config, Counters
from msrt.dispatch.deadlines import Deadlines
from msrt.dispatch.events import Action, Recall, Reject, Request, Send, State
from msrt.dispatch.retry import FINAL, too_late, verdict
from msrt.dispatch.roster import CANARY, Flight, Pool, Roster, Slot, Worker
from msrt.errors import FrameTooLarge, MsrtError, NotFound
from msrt.protocol.messages import Infer, InferFailed

__all__ = ["BAD_ANSWER", "STALLED", "Flow"]

STALLED = "stalled"
"""The code, never sent, of work taken back from a silent worker."""
BAD_ANSWER = "bad_answer"
"""The same, of an answer that does not have the rows that were asked for."""
MAX_SKIPPED = 64
"""Requests at the head of a lane that a worker may not take before we stop looking behind them."""


class Flow:
    """Every open request is in `live`, and in exactly one of: a lane of its pool, a flight."""

    def __init__(self, config: Config, rng: random.Random, roster: Roster, counters: Counters) -> None:
        self.config = config
        self.counters = counters
        self.admission = Admission(config.max_items, config.max_bytes)
        self.deadlines = Deadlines()
        self.live: dict[int, Request] = {}
        self.wake = math.inf
        """Nothing but a deadline is due before."""
        self._roster = roster
        self._random = rng
        self._serial = 0

    def admit(self, request: Request, now: float) -> Pool:
        """Let it wait. Raises what the caller is to be told."""
        request.since = now
        if not request.deadline > now:
            raise too_late()
        pool = self._route(request)
        lane = pool.lane(request)
        lane.measure(request)
        size = request.size
        if size > pool.limit and pool.slots:
            raise FrameTooLarge(size, pool.limit, "request")
        why = self.admission.refuse(size)
        if why:
            raise self.admission.overloaded(why)
        request.deadline = min(request.deadline, now + self.config.max_deadline_s)
        self._serial += 1
        request.id = self._serial
        self.live[request.id] = request
        self.deadlines.add(request)
        lane.queue.append(request)
        self._wait(request, pool, now)
        return pool

    def _route(self, request: Request) -> Pool:
        pools = self._roster.pools
        pool = pools.get((request.model, request.version))
        if pool is None or request.version < 0:
            name = f"{request.model}@{request.version}" if request.version else request.model
            raise NotFound(f"no model {name} is served here")
        if pool.share and self._random.random() < pool.share:
            return pools[request.model, CANARY]
        return pool

    def _wait(self, request: Request, pool: Pool, now: float) -> None:
        """Count it as waiting; its lane holds it already."""
        request.state = State.QUEUED
        request.place = pool
        request.queued = now
        pool.items += 1
        self.admission.entered(request.size)
        due = now + (self.config.max_age_s if pool.slots else self.config.empty_s)
        self.wake = min(self.wake, due)

    def _leave(self, request: Request) -> None:
        pool = request.place
        assert isinstance(pool, Pool)
        pool.items -= 1
        self.admission.left(request.size)

    def move(self, source: Pool, target: Pool) -> None:
        """Let those who wait in a pool that is no more wait in another."""
        for _, lane in list(source.lanes.items()):
            for request in lane.queue:
                if request.state is State.QUEUED:
                    source.items -= 1
                    target.items += 1
                    request.place = target
                    target.lane(request).queue.append(request)
        source.lanes.clear()

    # --- out to a worker ------------------------------------------------------------------------------------

    def pump(self, pool: Pool, now: float, out: list[Action]) -> None:
        """Send what waits for as long as somebody is free."""
        while pool.items and pool.open:
            slot = choose(pool.open, self._random)
            if self._launch(pool, slot, now, out):
                continue
            if not any(self._launch(pool, other, now, out) for other in list(pool.open) if other is not slot):
                return

    def _launch(self, pool: Pool, slot: Slot, now: float, out: list[Action]) -> bool:
        batch = self._take(pool, slot, now, out)
        if not batch:
            return False
        worker = slot.worker
        node = (worker.node,)
        latest = 0.0
        total = size = 0
        for request in batch:
            request.state = State.FLYING
            request.attempts += 1
            request.tried += node
            total += request.rows
            size += request.size
            latest = max(latest, request.deadline)
        pool.items -= len(batch)
        self.admission.items -= len(batch)
        self.admission.bytes -= size
        ids = tuple([request.id for request in batch])
        specs, frames = join(batch)
        worker.launch(Flight(slot, ids, total, now), self.config.window)
        self.counters.sent += 1
        first = batch[0]
        rows = tuple([request.rows for request in batch])
        left_ms = max(int((latest - now) * 1000), 1)
        message = Infer(ids, rows, slot.model, specs, slot.version, left_ms, first.outputs, first.trace)
        out.append(Send(worker.node, message, frames))
        self.wake = min(self.wake, now + self.config.stall_floor_s)
        return True

    def _take(self, pool: Pool, slot: Slot, now: float, out: list[Action]) -> list[Request]:
        """The next batch for a worker: from the lane whose head waits longest, else from any that fits."""
        if len(pool.lanes) == 1:
            for lane in pool.lanes.values():
                return self._take_from(lane, pool, slot, now, out)
        for lane, _ in sorted(pool.heads(), key=lambda pair: pair[1].queued):
            batch = self._take_from(lane, pool, slot, now, out)
            if batch:
                return batch
        return []

    def _take_from(self, lane: Lane, pool: Pool, slot: Slot, now: float, out: list[Action]) -> list[Request]:
        queue = lane.queue
        batch: list[Request] = []
        skipped: list[Request] = []
        rows = self.config.max_batch_rows
        room = slot.worker.limit
        joinable = lane.joinable and slot.batchable and not slot.worker.suspect
        while queue and len(skipped) < MAX_SKIPPED:
            request = queue[0]
            if request.state is not State.QUEUED:
                queue.popleft()
                continue
            if request.deadline <= now:
                queue.popleft()
                self.reject(request, too_late(), out)
                continue
            if request.size > slot.worker.limit or (request.tried and not _may_have(request, slot, pool)):
                skipped.append(queue.popleft())
                continue
            if batch and (request.rows > rows or request.size > room or request.alone):
                break
            batch.append(queue.popleft())
            rows -= request.rows
            room -= request.size
            if request.alone or not joinable:
                break
        if skipped:
            queue.extendleft(reversed(skipped))
        return batch

    # --- back, or done --------------------------------------------------------------------------------------

    def take_back(
        self, worker: Worker, requests: Iterable[Request | None], why: InferFailed, now: float, out: list[Action]
    ) -> None:
        """Those that this worker was the last to have wait again, in their old order. One of them may have spoilt the
        batch: if that is possible they ride alone."""
        mine = [request for request in requests if request is not None and _flies_with(request, worker)]
        spoilt = why.code in FINAL or why.code == BAD_ANSWER
        for request in reversed(mine):
            request.alone = request.alone or spoilt
            self._again(request, why, now, out)

    def refuse(self, worker: Worker, requests: Iterable[Request | None], why: InferFailed, out: list[Action]) -> None:
        """The requests are at fault: nobody else is asked."""
        for request in requests:
            if request is not None and _flies_with(request, worker):
                self.reject(request, verdict(request, why.code, why.text, why.hint), out)

    def _again(self, request: Request, why: InferFailed, now: float, out: list[Action]) -> None:
        """A worker will not answer this one: let it wait for another, or tell the caller."""
        place = request.place
        assert isinstance(place, Pool)
        if not place.slots:
            place = self._roster.pools.get((request.model, request.version), place)
        if request.attempts >= self.config.max_attempts or place.retired:
            if why.code == STALLED:
                return  # it may answer yet: the deadline decides
            self.reject(request, verdict(request, why.code, why.text, why.hint), out)
            return
        if request.attempts >= self.config.max_attempts - 1:
            request.alone = True
        self.counters.retried += 1
        place.lane(request).queue.appendleft(request)
        self._wait(request, place, now)

    def reject(self, request: Request, error: MsrtError, out: list[Action]) -> None:
        self.settle(request, "", out)
        self.counters.rejected += 1
        out.append(Reject(request, error))

    def settle(self, request: Request, by: str, out: list[Action]) -> None:
        """Forget it; workers other than `by` that may still have it are told."""
        if request.state is State.QUEUED:
            self._leave(request)
        request.state = State.SETTLED
        del self.live[request.id]
        self.deadlines.remove(request)
        if by and len(request.tried) == 1:
            return
        for node in dict.fromkeys(request.tried):
            worker = self._roster.workers.get(node)
            if worker is not None and node != by:
                worker.forget(request.id, self.config.window)
                out.append(Recall(node, (request.id,)))


def _flies_with(request: Request, worker: Worker) -> bool:
    """Whether this worker was the last to get it, and nobody took it back since."""
    return request.state is State.FLYING and request.tried[-1] == worker.node


def _may_have(request: Request, slot: Slot, pool: Pool) -> bool:
    """Somebody new, or there is nobody new."""
    tried = request.tried
    if slot.worker.node not in tried:
        return True
    return not any(other.worker.node not in tried and not other.worker.suspect for other in pool.slots)
