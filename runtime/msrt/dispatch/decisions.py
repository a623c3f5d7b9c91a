"""What a dispatcher saw, chose and got, drawn at random and written down: what a scheduler can later be learnt from.

A `Decision` is the state in which a batch was given to a worker, with everybody who might have had it; its `Outcome`
has the same id; a `Refusal` is a request that was not let in. Times are seconds, `at` in the dispatcher's time.
"""

from __future__ import annotations

import random  # noqa: TID251 - the type only; the object is passed in
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from msrt.dispatch.events import Request
    from msrt.dispatch.roster import Flight, Pool, Slot

__all__ = ["Candidate", "Decision", "Entry", "Outcome", "Recorder", "Refusal"]

MOST: Final = 32
"""Candidates that are written down, the chosen one among them."""


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker that holds what was asked for."""

    worker: str
    rows: int
    """In flight to it, over all models."""
    backlog: int
    """Of others, when it last said so."""
    batches: int
    """In flight, of this model."""
    window: int
    """How many there may be."""
    latency_s: float
    """Peak EWMA, faded to now; 0 while unknown."""
    row_s: float
    """What a row costs it, and ..."""
    batch_s: float
    """... each batch beside its rows; 0 while unknown."""
    way_s: float
    """There and back, without work."""
    circuit: str = "closed"
    suspect: bool = False
    """It fell silent."""
    open: bool = False
    """It would take a batch now."""


class Decision(msgspec.Struct, frozen=True, tag="decision", tag_field="kind", omit_defaults=True):
    """A batch was given to a worker."""

    id: int
    at: float
    model: str
    version: int
    reason: str
    """choice (the better of two drawn), retry, hedge, probe (of a silent worker), sequence (where its state is)."""
    chosen: str
    requests: int
    rows: int
    bytes: int
    waited_s: float
    """The oldest of them, this time."""
    left_s: float
    """The least, until a deadline."""
    expected_s: float
    waiting: int
    """Requests of this kind that stay behind."""
    candidates: tuple[Candidate, ...]
    priority: int = 0
    tried: tuple[str, ...] = ()
    """Who had the first of them before."""


class Outcome(msgspec.Struct, frozen=True, tag="outcome", tag_field="kind", omit_defaults=True):
    """What became of it. A batch that stalled may have a second one."""

    id: int
    at: float
    worker: str
    code: str
    """ok, or the error's."""
    seconds: float
    compute_s: float = 0.0
    queue_s: float = 0.0
    """On the worker."""


class Refusal(msgspec.Struct, frozen=True, tag="refusal", tag_field="kind", omit_defaults=True):
    """A request that was not let in."""

    at: float
    model: str
    version: int
    reason: str
    left_s: float
    rows: int
    bytes: int
    waiting: int
    """Requests in all queues."""
    rate: float
    """Requests answered in a second."""
    need_s: float = 0.0
    """What was expected, where that was the reason."""
    priority: int = 0


Entry = Decision | Outcome | Refusal


class Recorder:
    """Draws, and describes what was drawn."""

    def __init__(self, share: float, rng: random.Random) -> None:
        self._share, self._draw = share, rng.random
        self._serial = 0

    def drawn(self) -> bool:
        return self._draw() < self._share

    def choice(self, batch: list[Request], pool: Pool, slot: Slot, now: float, reason: str) -> Decision:
        """Before anything of it is noted in the roster."""
        self._serial += 1
        first = batch[0]
        others = [other for other in pool.slots if other is not slot][: MOST - 1]
        rows = sum(request.rows for request in batch)
        return Decision(
            self._serial, now, slot.model, slot.version, reason, slot.worker.node, len(batch), rows,
            sum(request.size for request in batch), now - min(request.queued for request in batch),
            min(request.deadline for request in batch) - now,
            max(slot.busy_until - now, 0.0) + slot.cost.expected(rows) + slot.limit.base, pool.items,
            tuple([_candidate(one, now) for one in (slot, *others)]), first.priority, first.tried,
        )  # fmt: skip

    @staticmethod
    def outcome(flight: Flight, code: str, now: float, compute_s: float = 0.0, queue_s: float = 0.0) -> Outcome:
        return Outcome(flight.decision, now, flight.slot.worker.node, code, now - flight.sent, compute_s, queue_s)


def _candidate(slot: Slot, now: float) -> Candidate:
    worker, cost = slot.worker, slot.cost
    return Candidate(
        worker.node, worker.rows, worker.backlog, slot.flying, slot.limit.batches, slot.latency.now(now),
        cost.per_row, cost.fixed, slot.limit.base, slot.breaker.circuit.value, worker.suspect, slot.open,
    )  # fmt: skip
