"""Which failures go elsewhere, and when silence counts as one."""

from __future__ import annotations

from msrt.dispatch.config import Config
from msrt.dispatch.events import Request
from msrt.dispatch.roster import Worker
from msrt.errors import DeadlineExceeded, MsrtError, Unavailable, from_wire

__all__ = ["BAD_ANSWER", "FINAL", "STALLED", "patience", "probe_after", "too_late", "verdict"]

FINAL = frozenset(
    {"bad_request", "deadline_exceeded", "forbidden", "frame_too_large", "invalid_tensor", "sequence_lost"}
)
"""Codes that another worker would answer with as well: the request is at fault."""
STALLED = "stalled"
"""The code, never sent, of work taken back from a silent worker."""
BAD_ANSWER = "bad_answer"
"""The same, of an answer that does not have the rows that were asked for, or that nobody can use."""
BUSY = frozenset({"overloaded"})


def patience(worker: Worker, config: Config) -> float:
    """How long a worker with work in flight may be silent before its work is given to another."""
    longest = config.stall_floor_s
    for slot in {flight.slot for flight in worker.flights.values()}:
        if slot.cold:
            expected = config.cold_s
        elif slot.latency.known or slot.latency.worst:
            more = worker.rows / slot.typical_rows if slot.typical_rows else 1.0
            expected = config.stall_factor * slot.latency.worst * max(1.0, more)
        else:
            expected = config.stall_first_s
        longest = max(longest, expected)
    return longest


def probe_after(probes: int, config: Config) -> float:
    """Seconds until a silent worker gets one request to show that it lives: doubling, bounded."""
    return min(config.probe_s * 2.0 ** min(probes, 16), config.max_probe_s)


def verdict(request: Request, code: str, text: str, hint: str) -> MsrtError:
    """What the caller is told when no more is tried."""
    if code in FINAL or code in BUSY:
        return from_wire(code, text, hint)
    if request.attempts > 1:
        return Unavailable(f"{request.attempts} workers could not answer; the last said {code}: {text}")
    return Unavailable(f"the worker could not answer ({code}): {text}")


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("no answer within the deadline")
