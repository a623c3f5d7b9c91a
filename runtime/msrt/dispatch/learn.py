"""What an answer teaches of the worker that gave it."""

from __future__ import annotations

from msrt.dispatch.breaker import Circuit
from msrt.dispatch.roster import Flight, Worker
from msrt.protocol.messages import Inferred

__all__ = ["learn"]


def learn(worker: Worker, flight: Flight, message: Inferred, now: float) -> None:
    """From the time that a batch took, and from what its worker says of its own load."""
    slot, rows = flight.slot, flight.rows
    seconds = now - flight.sent
    before = slot.limit.batches
    slot.typical_rows += 0.2 * (rows - slot.typical_rows) if slot.typical_rows else rows
    work = message.compute_us / 1e6 or seconds
    slot.cost.add(rows, work)
    if not flight.cold:
        slot.latency.add(seconds, now)
        slot.lateness.add(seconds, flight.expected)
        slot.limit.add(seconds, work, alone=flight.alone, cramped=flight.cramped)
    if not slot.flying:
        slot.busy_until = now
    worker.backlog = max(message.depth - worker.rows, 0) if message.depth else 0
    if slot.breaker.success() or slot.limit.batches != before:
        slot.slow = slot.slow and slot.breaker.circuit is not Circuit.CLOSED
        slot.refresh()
