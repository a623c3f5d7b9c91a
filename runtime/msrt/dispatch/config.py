"""Bounds and paces of a dispatcher, and what it counts."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Config", "Counters"]


class Config(msgspec.Struct, frozen=True):
    """Bounds and paces of a dispatcher."""

    window: int = 2
    """Batches in flight per worker and model version, to begin with ..."""
    max_window: int = 16
    """... and at most: it widens where batches cannot grow, and narrows where they wait on the worker."""
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
    cold_s: float = 10.0
    """The same while it loads a model that was not in its memory."""
    cold_wait_s: float = 0.1
    """A request that waited so long for those that have its model in memory may go to one that has to load it."""
    probe_s: float = 0.5
    """A stalled worker gets one request after this time, then after twice, four times ..."""
    max_probe_s: float = 8.0
    pause_s: float = 0.05
    """How long a model that failed for want of something is left alone, unless the worker said how long."""
    boost_s: float = 0.25
    """A request of a higher priority goes before those that came up to so much earlier: nobody starves."""
    background_share: float = 0.5
    """Of the queue, what background requests may fill."""
    admit_margin: float = 1.2
    """A request is refused when the time that is expected, times this, does not fit its deadline; where it has to wait,
    times what was learnt, between this ..."""
    admit_most: float = 2.0
    """... and this."""
    retry_ratio: float = 0.2
    """Retries that each request adds to the budget ..."""
    retry_per_s: float = 20.0
    """... and each second; ..."""
    retry_most: float = 500.0
    """... what is kept of it: the requests in flight of a few workers."""
    hedge_ratio: float = 0.05
    """The same for hedges: extra work is bounded by this share."""
    hedge_most: float = 64.0
    hedge_quantile: float = 0.95
    """Of how late batches are; who is later is asked of a second worker."""
    hedge_floor_s: float = 0.003
    sweep_s: float = 0.5
    """How often slow workers are looked for."""
    eject_share: float = 0.34
    """Of a model's workers, the most that may be ejected."""
    panic_share: float = 0.5
    """With fewer able than this, the ejected get work again."""
    slow_factor: float = 4.0
    """A worker is ejected when its usual time is above the median times this ..."""
    slow_floor_s: float = 0.02
    """... and above it by so much."""
    slow_fresh_s: float = 5.0
    """Only by answers that are no older."""
    max_sequences: int = 4096
    sequence_idle_s: float = 60.0
    record_share: float = 0.0
    """Of the decisions, those that are written down (see decisions)."""


FAULTY: Final = 64
"""Versions of a model whose faults are counted; the lowest goes first."""


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
    """Answers of the wrong shape or byte count, and NaN that another worker did not find."""
    refused: dict[str, int] = {}
    """Requests that were not let in, by reason: an error's code, or `hopeless` ..."""
    given_up: dict[str, int] = {}
    """... and those that were, and got no answer, by code."""
    hopeless: int = 0
    """Requests refused because they could not have made their deadline."""
    unbudgeted: int = 0
    """Retries that were not made because the budget was spent."""
    hedged: int = 0
    """Requests that were asked of a second worker because the first was late."""
    hedge_wins: int = 0
    """Of these, answered by the second."""
    ejected: int = 0
    """Times a model on a worker was taken out for errors or slowness."""
    sequences_lost: int = 0
    faults: dict[str, dict[int, int]] = {}
    """Requests that a worker could not answer, by model and version, whatever became of them afterwards: what one
    version costs that others make good."""

    def fault(self, model: str, version: int, requests: int) -> None:
        """A worker had so many requests of this version and no good answer to them."""
        of_model = self.faults.setdefault(model, {})
        of_model[version] = of_model.get(version, 0) + requests
        if len(of_model) > FAULTY:
            del of_model[min(of_model)]
