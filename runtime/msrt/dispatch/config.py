"""Bounds and paces of a dispatcher, and what it counts."""

from __future__ import annotations

import msgspec

__all__ = ["Config", "Counters"]


class Config(msgspec.Struct, frozen=True):
    """Bounds and paces of a dispatcher."""

    window: int = 2
    """Batches in flight per worker and model version."""
    max_batch_rows: int = 64
    max_items: int = 2048
    """Requests that may wait; one more is Overloaded."""
    max_bytes: int = 64 << 20
    max_age_s: float = 5.0
    """Who waited that long in the queue is Overloaded."""
    unready_s: float = 2.0
    """The same while no worker can answer: Unavailable."""
    empty_s: float = 0.3
    """The same while nobody even holds the model: the caller may know another edge that does."""
    max_deadline_s: float = 300.0
    max_attempts: int = 3
    stall_factor: float = 4.0
    """A worker is stalled when silent for this many times its worst recent latency ..."""
    stall_floor_s: float = 0.15
    """... and at least this long."""
    stall_first_s: float = 1.0
    """The same before its first answer, unless it said how fast the model is."""
    probe_s: float = 0.5
    """A stalled worker gets one request after this time, then after twice, four times ..."""
    max_probe_s: float = 8.0
    pause_s: float = 0.05
    """How long a model that failed for want of something is left alone, unless the worker said how long."""


class Counters(msgspec.Struct):
    """What happened so far."""

    submitted: int = 0
    replied: int = 0
    rejected: int = 0
    sent: int = 0
    """Batches."""
    retried: int = 0
    stalled: int = 0
    """Times a worker fell silent."""
    late: int = 0
    """Answers that nobody waited for any more."""
    invalid: int = 0
    """Answers of the wrong shape or byte count."""
