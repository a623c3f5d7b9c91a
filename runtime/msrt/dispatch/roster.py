"""Who works, which model versions they have ready, and what is in flight.

A *slot* is one ready model version on one worker. A *pool* is what a request asks for (a model and a version, or "what
is rolled out"): the slots that may answer it and the lanes in which its requests wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from zlib import crc32

from msrt.dispatch.balance import Latency
from msrt.dispatch.batching import Lane, LaneKey, lane_key
from msrt.dispatch.breaker import Breaker, Circuit
from msrt.dispatch.config import Config
from msrt.dispatch.cost import BatchCost
from msrt.dispatch.events import Request, VersionTable
from msrt.dispatch.hedge import Lateness
from msrt.dispatch.limit import GradientLimit
from msrt.protocol.messages import ModelState

__all__ = ["CANARY", "Flight", "Pool", "Roster", "Slot", "Worker"]

CANARY = -1
"""The version under which the pool of a candidate with a share is kept."""
MAX_LANES = 64
"""Of a pool: shapes come and go, empty lanes are swept beyond this."""


class Flight:
    """One batch on its way. Holds ids only: an answered request frees its bytes at once."""

    __slots__ = (
        "alone",
        "cold",
        "cramped",
        "decision",
        "expected",
        "hedge",
        "ids",
        "landed",
        "left",
        "rows",
        "sent",
        "slot",
    )

    def __init__(self, slot: Slot, ids: tuple[int, ...], rows: int, sent: float) -> None:
        self.slot = slot
        self.ids = ids
        self.rows = rows
        self.sent = sent
        self.left = len(ids)
        self.landed = False
        self.alone = not slot.flying
        """Nothing flew there before it."""
        self.cold = slot.cold
        """Its model had to be loaded first: its time says nothing about the worker."""
        self.expected = 0.0
        """Seconds it should take, with what flew before it."""
        self.cramped = False
        """More waited than could ride."""
        self.hedge = False
        """A second try of what still flies elsewhere."""
        self.decision = 0
        """Of the record, if it was drawn."""


class Slot:
    """One ready model version on one worker."""

    __slots__ = (
        "batchable",
        "breaker",
        "busy_until",
        "cold",
        "cost",
        "flying",
        "forced",
        "latency",
        "lateness",
        "limit",
        "model",
        "open",
        "paused_until",
        "pools",
        "private",
        "slow",
        "typical_rows",
        "version",
        "worker",
    )

    def __init__(self, worker: Worker, state: ModelState, config: Config) -> None:
        hint = state.latency_us.get(state.variant, 0) / 1e6
        self.worker = worker
        self.model = state.model
        self.version = state.version
        self.batchable = state.batch
        self.cold = state.cold
        """Not in the worker's memory: it answers, but the first request waits until it is."""
        self.latency = Latency(hint)
        self.cost = BatchCost(hint)
        self.limit = GradientLimit(config.window, config.max_window)
        self.lateness = Lateness(config.hedge_quantile)
        self.breaker = Breaker()
        self.typical_rows = 0.0
        self.busy_until = 0.0
        """When what flies should be computed."""
        self.flying = 0
        """Batches in flight."""
        self.paused_until = 0.0
        self.forced = False
        """Gets work whatever its breaker says: too many others are out."""
        self.slow = False
        """Ejected for slowness, not for errors."""
        self.open = False
        """Would take a batch now; kept by `refresh`."""
        self.pools: list[Pool] = []
        self.private: Pool | None = None
        """For the sequences that live here."""

    def best_rows(self, most: int) -> int:
        """Rows of a batch that pays."""
        return self.cost.best_rows(most, self.limit.base)

    def load(self, now: float) -> float:
        """What one more row would wait, roughly: the measure of the choice."""
        worker = self.worker
        return (worker.rows + worker.backlog + 1) * self.latency.now(now)

    def refresh(self) -> None:
        """Set `open` from what is known, and tell the pools."""
        worker, circuit = self.worker, self.breaker.circuit
        free = self.flying < self.limit.batches and not self.paused_until
        if circuit is not Circuit.CLOSED and not self.forced:
            free = free and circuit is Circuit.HALF_OPEN and not self.flying
        want = free and (not worker.suspect or (worker.probing and not worker.flights))
        if want is not self.open:
            self.open = want
            for pool in self.pools:
                if want:
                    pool.open.append(self)
                else:
                    pool.open.remove(self)


class Worker:
    """One worker's session."""

    __slots__ = (
        "answered",
        "backlog",
        "flights",
        "limit",
        "node",
        "outrun",
        "owes_since",
        "probe_at",
        "probes",
        "probing",
        "rows",
        "slots",
        "suspect",
    )

    def __init__(self, node: str, limit: int) -> None:
        self.node = node
        self.limit = limit
        self.slots: dict[tuple[str, int], Slot] = {}
        self.flights: dict[int, Flight] = {}
        """Request id to its flight, oldest first. What was given up is not here."""
        self.rows = 0
        """In flight, over all models: a device has one set of cores."""
        self.backlog = 0
        """Rows of others (its own sensors') that waited there when it last answered."""
        self.answered = -math.inf
        """When it last said anything about its work."""
        self.outrun = 0
        """Requests that another answered first since this one last said anything ..."""
        self.owes_since = math.inf
        """... and when the first of them was sent."""
        self.suspect = False
        """Silent for too long: gets no work until it answers, but for a probe now and then."""
        self.probing = False
        self.probe_at = 0.0
        self.probes = 0

    def launch(self, flight: Flight) -> None:
        self.flights.update(dict.fromkeys(flight.ids, flight))
        self.rows += flight.rows
        slot = flight.slot
        slot.flying += 1
        if self.suspect:
            self.probing = False
            self.refresh()
        elif slot.flying >= slot.limit.batches or slot.breaker.circuit is not Circuit.CLOSED:
            slot.refresh()

    def land(self, flight: Flight) -> None:
        """The flight is over, answered or given up."""
        flights = self.flights
        for number in flight.ids:
            if flights.get(number) is flight:
                del flights[number]
        flight.landed = True
        self.rows -= flight.rows
        slot = flight.slot
        slot.flying -= 1
        if not slot.open:
            slot.refresh()

    def forget(self, number: int) -> None:
        """One request of a flight needs no answer any more."""
        flight = self.flights.pop(number, None)
        if flight is not None:
            flight.left -= 1
            if not flight.left:
                self.land(flight)

    def refresh(self) -> None:
        for slot in self.slots.values():
            slot.refresh()

    def batches(self) -> list[Flight]:
        """Flights, oldest first."""
        return list(dict.fromkeys(self.flights.values()))


class Pool:
    """Everybody who may answer one kind of question, and the questions that wait."""

    __slots__ = (
        "floor_s",
        "items",
        "lanes",
        "limit",
        "model",
        "open",
        "paced_at",
        "reserve",
        "retired",
        "row_s",
        "rows",
        "share",
        "slots",
        "tried_at",
        "turn_s",
        "version",
    )

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version
        self.slots: list[Slot] = []
        self.open: list[Slot] = []
        self.reserve: list[Slot] = []
        """Cold ones, asked only where the others cannot keep up: each of them would load the model for it."""
        self.lanes: dict[LaneKey, Lane] = {}
        self.items = 0
        """Requests that wait, over all lanes; `rows`: theirs."""
        self.rows = 0
        self.share = 0.0
        """Of its requests, the part that goes to the CANARY pool instead."""
        self.limit = 0
        """Bytes of the largest request that any of its workers can take."""
        self.retired = False
        """Nobody is to answer this kind of question any more."""
        self.paced_at = -math.inf
        """When the next three were last worked out (see admission.pace)."""
        self.row_s = self.turn_s = self.floor_s = 0.0
        self.tried_at = -math.inf
        """When a request was last let in against the estimate, to learn."""

    def lane(self, request: Request) -> Lane:
        key = lane_key(request)
        lane = self.lanes.get(key)
        if lane is None:
            if len(self.lanes) >= MAX_LANES:
                self.lanes = {old: lane for old, lane in self.lanes.items() if lane.head() is not None}
            lane = self.lanes[key] = Lane(request)
        return lane

    def heads(self) -> Iterator[tuple[Lane, Request]]:
        for lane in self.lanes.values():
            head = lane.head()
            if head is not None:
                yield lane, head

    def fill(self, slots: Iterable[Slot]) -> None:
        for slot in self.slots:
            slot.pools.remove(self)
        self.slots, self.reserve = _warm_first(list(slots))
        self.open = [slot for slot in self.slots if slot.open]
        self.limit = max([slot.worker.limit for slot in self.slots], default=0)
        for slot in self.slots:
            slot.pools.append(self)

    def call_up(self) -> None:
        """One of the reserve helps: it is loaded by the first request that it gets."""
        slot = self.reserve.pop(0)
        self.slots.append(slot)
        self.limit = max(self.limit, slot.worker.limit)
        slot.pools.append(self)
        if slot.open:
            self.open.append(slot)


def _warm_first(slots: list[Slot]) -> tuple[list[Slot], list[Slot]]:
    """Who answers, and the reserve: all that are warm, or one cold one; which one differs by model."""
    cold = [slot for slot in slots if slot.cold]
    if not cold:
        return slots, []
    cold.sort(key=lambda slot: (slot.worker.suspect, crc32(f"{slot.model}/{slot.worker.node}".encode())))
    warm = [slot for slot in slots if not slot.cold]
    return (warm, cold) if warm else (cold[:1], cold[1:])


class Roster:
    """Workers, version tables, and the pools that follow from them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.workers: dict[str, Worker] = {}
        self.tables: dict[str, VersionTable] = {}
        self.pools: dict[tuple[str, int], Pool] = {}

    def waiting(self) -> list[Pool]:
        """Pools in which somebody waits, those of sequences among them."""
        found = [pool for pool in self.pools.values() if pool.items]
        for worker in self.workers.values():
            found += [s.private for s in worker.slots.values() if s.private is not None and s.private.items]
        return found

    def of_model(self, model: str) -> Iterator[Slot]:
        for worker in self.workers.values():
            for slot in worker.slots.values():
                if slot.model == model:
                    yield slot

    def report(self, worker: Worker, states: Iterable[ModelState]) -> Iterable[str]:
        """What a worker holds now; returns the models whose pools must be rebuilt. A slot that stays keeps its past."""
        old, worker.slots = worker.slots, {}
        for state in states:
            if state.state == "ready" and state.version > 0:
                key = (state.model, state.version)
                slot = old.get(key) or Slot(worker, state, self.config)
                slot.batchable, slot.cold = state.batch, state.cold
                worker.slots[key] = slot
        return dict.fromkeys(model for model, _ in [*old, *worker.slots])

    def rebuild(self, model: str) -> list[Pool]:
        """Bring the pools of a model in line with tables and workers; returns those that may have work to do."""
        wanted: dict[int, list[Slot]] = {}
        table = self.tables.get(model)
        if table is not None:
            wanted.update({version: [] for version in (table.stable, table.candidate) if version})
        for slot in self.of_model(model):
            wanted.setdefault(slot.version, []).append(slot)
        if table is not None:
            wanted |= self._default(table, wanted)
        touched = []
        for version, slots in wanted.items():
            pool = self.pools.get((model, version))
            if pool is None:
                pool = self.pools[model, version] = Pool(model, version)
            pool.fill(slots)
            pool.retired = False
            pool.share = table.share if version == 0 and table is not None and CANARY in wanted else 0.0
            touched.append(pool)
        for key in [key for key in self.pools if key[0] == model and key[1] not in wanted]:
            pool = self.pools[key]
            pool.fill(())
            pool.retired = True
            touched.append(pool)
            if not pool.items:
                del self.pools[key]
        return touched

    def _default(self, table: VersionTable, ready: dict[int, list[Slot]]) -> dict[int, list[Slot]]:
        """Pool 0, which answers requests that name no version, and CANARY if the candidate gets a share of them."""
        stable = ready.get(table.stable, [])
        candidate = ready.get(table.candidate, [])
        if not table.stable:
            return {0: list(candidate)}
        if table.workers:
            switched = [slot for slot in candidate if slot.worker.node in table.workers]
            nodes = {slot.worker.node for slot in switched}
            return {0: switched + [slot for slot in stable if slot.worker.node not in nodes]}
        if candidate and table.share > 0:
            return {0: list(stable), CANARY: list(candidate)}
        return {0: list(stable)}
