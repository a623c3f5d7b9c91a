"""What time alone brings: silent workers, slots that rested enough, requests that waited too long."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type only; the object is passed in

from msrt.dispatch import eject
from msrt.dispatch.breaker import Circuit
from msrt.dispatch.config import Config, Counters
from msrt.dispatch.events import Action
from msrt.dispatch.flow import Flow
from msrt.dispatch.retry import patience, probe_after
from msrt.dispatch.roster import Flight, Pool, Roster, Worker
from msrt.errors import Unavailable

__all__ = ["call_up", "next_wake", "outrun", "overdue", "put_off_probe", "shed_old", "sweep", "wake_slots"]


RACES = 2
"""Requests of a worker that another answered first, without a word from it, until that is silence."""


def overdue(worker: Worker, config: Config, counters: Counters, now: float) -> list[Flight]:
    """Flights that are given up. A worker that answered something since lost just that one; a silent one is suspect
    and loses all."""
    given_up: list[Flight] = []
    while worker.flights:
        flight = next(iter(worker.flights.values()))
        if now < flight.sent + patience(worker, config):
            break
        silent = worker.suspect or worker.answered < flight.sent
        given_up += _stalled(worker, config, counters, now) if silent else _landed(worker, [flight])
    if now >= _outrun_until(worker, config):
        given_up += _stalled(worker, config, counters, now)
    return given_up


def _stalled(worker: Worker, config: Config, counters: Counters, now: float) -> list[Flight]:
    counters.stalled += 1
    worker.suspect = True
    put_off_probe(worker, config, now)
    return _landed(worker, worker.batches())


def _landed(worker: Worker, flights: list[Flight]) -> list[Flight]:
    for each in flights:
        worker.land(each)
    worker.refresh()
    return flights


def outrun(worker: Worker, flight: Flight, now: float) -> None:
    """Another was asked as well and answered first: how long this one takes may never be told, so what it took by now
    counts. That nothing is in flight any more must not hide that it is silent."""
    took = now - flight.sent
    latency = flight.slot.latency
    if took > latency.usual and not flight.cold:
        latency.add(took, now)
    if worker.answered < flight.sent:
        worker.outrun += 1
        worker.owes_since = min(worker.owes_since, flight.sent)


def _outrun_until(worker: Worker, config: Config) -> float:
    """When one that lost races and said nothing is taken for stuck."""
    if worker.suspect or worker.outrun < RACES:
        return math.inf
    return worker.owes_since + patience(worker, config)


def put_off_probe(worker: Worker, config: Config, now: float) -> None:
    """A silent worker, or one that the link does not reach: ask it again later, and later still the next time."""
    worker.probing = False
    worker.probe_at = now + probe_after(worker.probes, config)
    worker.probes += 1


def wake_slots(worker: Worker, now: float) -> None:
    """Let those that rested, or are due a probe, have work again."""
    if worker.suspect and not worker.probing and not worker.flights and now >= worker.probe_at:
        worker.probing = True
        worker.refresh()
    for slot in worker.slots.values():
        if slot.paused_until and now >= slot.paused_until:
            slot.paused_until = 0.0
            slot.refresh()
        if slot.breaker.rested(now):
            slot.latency.forgive()
            slot.refresh()


def sweep(roster: Roster, rng: random.Random, now: float) -> int:
    """Eject who is far slower than its peers, and let the ejected help where too few are left or too much waits.
    Returns how many were ejected."""
    ejected = 0
    for pool in [pool for pool in roster.pools.values() if len(pool.slots) > 1]:
        for slot in eject.slow_ones(pool.slots, now, roster.config)[
            : max(eject.may_eject(pool.slots, roster.config), 0)
        ]:
            if slot.breaker.trip(now, rng):
                slot.slow = True
                ejected += 1
                slot.refresh()
        panic = eject.panics(pool.slots, roster.config)
        for slot in pool.slots:
            forced = panic or (slot.slow and pool.items > 0)
            if forced is not slot.forced:
                slot.forced = forced
                slot.refresh()
    return ejected


def _max_wait(pool: Pool, config: Config) -> tuple[float, bool]:
    """How long requests may wait here, and whether anybody could answer them."""
    able = any(not slot.worker.suspect for slot in pool.slots)
    if not pool.slots:
        return config.empty_s, able
    return (config.max_age_s if able else config.unready_s), able


def shed_old(pool: Pool, flow: Flow, now: float, out: list[Action]) -> None:
    """Turn away who waited too long."""
    limit, able = _max_wait(pool, flow.config)
    for lane, first in list(pool.heads()):
        head = first
        while now >= head.queued + limit:
            if able:
                flow.reject(head, flow.admission.overloaded(f"waited {limit:g} s for a worker"), out)
            else:
                what = "holds it ready" if not pool.slots else "answers"
                flow.reject(head, Unavailable(f"{pool.model}: no worker {what}"), out)
            follower = lane.head()
            if follower is None:
                break
            head = follower


def call_up(pool: Pool, config: Config, now: float) -> None:
    """Where those that have the model in memory cannot keep up, one that has to load it helps."""
    if pool.reserve and any(now >= head.queued + config.cold_wait_s for _, head in pool.heads()):
        pool.call_up()


def next_wake(roster: Roster, swept: float) -> float:
    """When time brings the next of these, deadlines apart."""
    wake, config, busy = math.inf, roster.config, False
    for worker in roster.workers.values():
        if worker.flights:
            busy = True
            first = next(iter(worker.flights.values()))
            wake = min(wake, first.sent + patience(worker, config))
        elif worker.suspect and not worker.probing:
            wake = min(wake, worker.probe_at)
        wake = min(wake, _outrun_until(worker, config))
        for slot in worker.slots.values():
            if slot.paused_until:
                wake = min(wake, slot.paused_until)
            if slot.breaker.circuit is Circuit.OPEN:
                wake = min(wake, slot.breaker.until)
    for pool in roster.waiting():
        limit, _ = _max_wait(pool, config)
        if pool.reserve:
            limit = min(limit, config.cold_wait_s)
        wake = min([wake, *(head.queued + limit for _, head in pool.heads())])
    return min(wake, swept + config.sweep_s) if busy else wake
