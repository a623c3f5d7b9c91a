"""Out to the workers: which batch, to whom, when; and a second time where the first is late."""

from __future__ import annotations

import heapq
import math

from msrt.dispatch.balance import choose
from msrt.dispatch.batching import Lane, join
from msrt.dispatch.breaker import Circuit
from msrt.dispatch.budget import Budget
from msrt.dispatch.decisions import Decision
from msrt.dispatch.events import Action, Record, Request, Send, State
from msrt.dispatch.flow import Flow
from msrt.dispatch.retry import too_late
from msrt.dispatch.roster import Flight, Pool, Slot
from msrt.protocol.messages import Infer

__all__ = ["Launcher"]

MAX_SKIPPED = 64
"""Requests at the head of a lane that a worker may not take before we stop looking behind them."""
HOLD_FROM_S = 0.004
"""A worker that is busy for less gets its next batch at once: timers are not finer."""
HALVES_FROM_S = 0.0002
HALVES_FROM = 8
"""What has twice as many rows, and computes for twice as long, is sent as two batches where those cost no more: the
second one is on its way while the first is computed, and that one's answers are given out while the second is. Each
batch more costs both sides some hundred microseconds, so it has to be worth that."""


class Launcher:
    """Takes requests from their lanes into flights."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.config = flow.config
        config = flow.config
        self.hedges = Budget(config.hedge_ratio, 0.0, config.hedge_most)
        self._late: list[tuple[float, int, Flight]] = []
        """Flights by when a second worker should be asked."""
        self._serial = 0

    @property
    def hedge_at(self) -> float:
        """When the next flight is late, if it still flies then."""
        return self._late[0][0] if self._late else math.inf

    def pump(self, pool: Pool, now: float, out: list[Action]) -> None:
        """Send what waits for as long as somebody is free."""
        while pool.items and pool.open:
            slot = choose(pool.open, self._flow.random, now)
            if self._launch(pool, slot, now, out):
                continue
            if not any(self._launch(pool, other, now, out) for other in list(pool.open) if other is not slot):
                return

    def _launch(self, pool: Pool, slot: Slot, now: float, out: list[Action]) -> bool:
        if slot.flying and slot.batchable and self._hold(pool, slot, now):
            return False
        batch = self._take(pool, slot, now, out)
        if not batch:
            return False
        rows = size = 0
        for request in batch:
            rows += request.rows
            size += request.size
        pool.items -= len(batch)
        pool.rows -= rows
        admission = self._flow.admission
        admission.items -= len(batch)
        admission.bytes -= size
        shared = rows >= self._share(pool.rows + rows, slot, now)
        flight = self._fly(batch, rows, slot, now, out)
        flight.cramped = pool.items > 0 and not shared
        first = batch[0]
        if first.attempts == 1:
            self._flow.retries.earn(len(batch))
            self.hedges.earn(len(batch))
            if first.hedgeable and slot.lateness.known and not slot.cold and len(pool.slots) > 1:
                self._watch(flight, now)
        self._flow.wake = min(self._flow.wake, now + self.config.stall_floor_s)
        return True

    def _fly(self, batch: list[Request], total: int, slot: Slot, now: float, out: list[Action]) -> Flight:
        worker = slot.worker
        node = (worker.node,)
        recorder = self._flow.recorder
        noted = self._note(batch, slot, now) if recorder is not None and recorder.drawn() else None
        latest = 0.0
        for request in batch:
            request.state = State.FLYING
            request.attempts += 1
            request.tried += node
            latest = max(latest, request.deadline)
        ids = tuple([request.id for request in batch])
        specs, frames = join(batch)
        flight = Flight(slot, ids, total, now)
        slot.busy_until = max(slot.busy_until, now) + slot.cost.expected(total)
        flight.expected = slot.limit.base + slot.busy_until - now
        if noted is not None:
            flight.decision = noted.id
            out.append(Record(noted))
        worker.launch(flight)
        self._flow.counters.sent += 1
        first = batch[0]
        rows = tuple([request.rows for request in batch])
        left_ms = max(int((latest - now) * 1000), 1)
        message = Infer(
            ids, rows, slot.model, specs, slot.version, left_ms, first.outputs, first.trace, first.priority,
            first.sequence, first.sequence_start, first.sequence_end,
        )  # fmt: skip
        out.append(Send(worker.node, message, frames))
        return flight

    def _note(self, batch: list[Request], slot: Slot, now: float) -> Decision:
        """The state in which it is given away."""
        first, recorder = batch[0], self._flow.recorder
        pool = first.place
        assert isinstance(pool, Pool)
        assert recorder is not None
        if first.state is State.FLYING:
            reason = "hedge"
        elif slot.worker.suspect:
            reason = "probe"
        elif first.sequence:
            reason = "sequence"
        else:
            reason = "retry" if first.tried else "choice"
        return recorder.choice(batch, pool, slot, now, reason)

    # --- which batch ----------------------------------------------------------------------------------------

    def _hold(self, pool: Pool, slot: Slot, now: float) -> bool:
        """Whether a busy worker should wait for a larger batch: one that is sent now would only lie there, and what
        comes meanwhile could ride along."""
        cost = slot.cost
        send_at = _send_at(slot)
        if send_at - now < HOLD_FROM_S or not cost.known:
            return False
        if pool.rows >= slot.best_rows(self.config.max_batch_rows):
            return False
        self._flow.wake = min(self._flow.wake, send_at)
        return True

    def held_until(self, pool: Pool, now: float) -> float:
        """When the first of those that could take a batch and were told to wait should be asked again."""
        return min([at for at in map(_send_at, pool.open) if at > now], default=math.inf)

    def _take(self, pool: Pool, slot: Slot, now: float, out: list[Action]) -> list[Request]:
        """The next batch for a worker: from the lane whose head waits longest, else from any that fits. A head of a
        higher priority counts as having waited longer."""
        if len(pool.lanes) == 1:
            for lane in pool.lanes.values():
                return self._take_from(lane, pool, slot, now, out)
        boost = self.config.boost_s
        for lane, _ in sorted(pool.heads(), key=lambda pair: pair[1].queued - boost * pair[0].priority):
            batch = self._take_from(lane, pool, slot, now, out)
            if batch:
                return batch
        return []

    def _take_from(self, lane: Lane, pool: Pool, slot: Slot, now: float, out: list[Action]) -> list[Request]:
        queue, flow = lane.queue, self._flow
        batch: list[Request] = []
        skipped: list[Request] = []
        room = slot.worker.limit
        cost = slot.cost
        known = cost.known
        ready = max(slot.busy_until, now) + slot.limit.base
        hopeless = (now + cost.fixed + cost.per_row) if known and pool.items > 1 else now
        joinable = lane.joinable and slot.batchable and not slot.worker.suspect
        rows = most = 1
        if joinable:
            rows = most = min(slot.best_rows(self.config.max_batch_rows), self._share(pool.rows, slot, now))
        latest = math.inf
        while queue and len(skipped) < MAX_SKIPPED:
            request = queue[0]
            if request.state is not State.QUEUED:
                queue.popleft()
                continue
            if request.deadline <= hopeless and (request.deadline <= now or request.attempts == 0):
                queue.popleft()
                flow.admission.came(request, now, in_time=False)
                flow.reject(request, too_late(), out)
                continue
            if request.size > slot.worker.limit or (request.tried and not _may_have(request, slot, pool)):
                skipped.append(queue.popleft())
                continue
            if batch:
                if request.rows > rows or request.size > room or request.alone:
                    break
                latest = min(latest, request.deadline)
                if known and ready + cost.expected(most - rows + request.rows) > latest:
                    break
            else:
                latest = request.deadline
            batch.append(queue.popleft())
            rows -= request.rows
            room -= request.size
            if request.alone or not joinable:
                break
        if skipped:
            queue.extendleft(reversed(skipped))
        return batch

    def _share(self, waiting: int, slot: Slot, now: float) -> int:
        """Rows that the next batch may take of those that wait. Where a row costs the same in any batch, those that fly
        are of like size: a large one leaves its worker idle while its callers are heard, and them while it is
        computed."""
        cost = slot.cost
        if slot.limit.batches < 2 or not cost.known or slot.busy_until - now >= HOLD_FROM_S:
            return waiting
        share = (waiting + (slot.worker.rows if slot.flying else 0) + 1) // 2
        pays = share >= HALVES_FROM and cost.per_row * share >= HALVES_FROM_S and cost.best_rows(share + 1) <= share
        return share if pays else waiting

    # --- a second time --------------------------------------------------------------------------------------

    def _watch(self, flight: Flight, now: float) -> None:
        late = max(flight.expected * flight.slot.lateness.ratio, self.config.hedge_floor_s)
        self._serial += 1
        heapq.heappush(self._late, (now + late, self._serial, flight))

    def hedge(self, now: float, out: list[Action]) -> None:
        """Ask a second worker for what is late by now, if the budget and somebody's hands are free."""
        while self._late and self._late[0][0] <= now:
            _, _, flight = heapq.heappop(self._late)
            if not flight.landed:
                self._hedge(flight, now, out)

    def _hedge(self, flight: Flight, now: float, out: list[Action]) -> None:
        live = self._flow.live
        batch = [live[number] for number in flight.ids if number in live]
        batch = [request for request in batch if request.state is State.FLYING and len(request.tried) == 1]
        if not batch or not self.hedges.spend(len(batch), now):
            return
        pool = batch[0].place
        assert isinstance(pool, Pool)
        others = [slot for slot in pool.open if slot.worker is not flight.slot.worker and not slot.flying]
        if not others or any(request.size > others[0].worker.limit for request in batch):
            return
        slot = choose(others, self._flow.random, now)
        if not slot.batchable:
            batch = batch[:1]
        for request in batch:
            request.hedged = True
        self._flow.counters.hedged += len(batch)
        self._fly(batch, sum(request.rows for request in batch), slot, now, out).hedge = True


def _send_at(slot: Slot) -> float:
    """A batch sent then arrives when the worker is through with what it has."""
    return slot.busy_until - 2 * slot.limit.base - 0.1 * (slot.cost.fixed + slot.cost.per_row)


def _may_have(request: Request, slot: Slot, pool: Pool) -> bool:
    """Somebody new, or there is nobody new."""
    tried = request.tried
    if slot.worker.node not in tried:
        return True
    return not any(
        other.worker.node not in tried and not other.worker.suspect and other.breaker.circuit is not Circuit.OPEN
        for other in pool.slots
    )
