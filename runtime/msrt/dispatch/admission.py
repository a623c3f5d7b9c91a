"""Who may wait: bounds of the queue in items and bytes, and whether a request can make its deadline at all.

What is expected follows from measured costs: the rows ahead at the pace of all workers of the model, plus one worker's
turn; and from how far such expectations were off (see `margin`). (Clockwork, OSDI 2020: admit only what can make it.)
"""

from __future__ import annotations

import math

from msrt.dispatch.breaker import Circuit
from msrt.dispatch.config import Config
from msrt.dispatch.events import Request
from msrt.dispatch.margin import Margin
from msrt.dispatch.roster import Pool
from msrt.errors import Overloaded

__all__ = ["Admission", "pace"]

WINDOW_S = 0.5
MIN_RETRY_S = 0.05
MAX_RETRY_S = 30.0
PACE_S = 0.05
"""How long a pool's pace is believed before it is worked out again."""
TRY_S = 0.5
"""An empty pool lets one in against its estimate that often: what is never tried is never learnt."""


class Admission:
    """Counts what waits, over all pools, and how fast it goes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.items = 0
        self.bytes = 0
        self.rate = 0.0
        """Requests answered per second, smoothed; 0 while unknown."""
        self.margin = Margin(config.admit_margin, config.admit_most)
        self._since = 0.0
        self._served = 0

    def check(self, request: Request) -> None:
        """Raises Overloaded when one more like this may not wait."""
        config = self.config
        most = config.max_items
        if request.priority < 0:
            most = int(most * config.background_share)
        if self.items >= most:
            raise self.overloaded(f"{self.items} requests wait")
        if self.bytes + request.size > config.max_bytes:
            raise self.overloaded(f"{self.bytes} bytes wait")

    def check_deadline(self, request: Request, pool: Pool, now: float) -> None:
        """Raises Overloaded when it could not be answered in time."""
        if now - pool.paced_at > PACE_S:
            pace(pool, now, self.config.max_batch_rows)
        left = request.deadline - now
        if pool.items:
            request.expected = pool.rows * pool.row_s + pool.turn_s
            need = request.expected * self.margin.value
        else:
            need = (pool.floor_s if pool.open else pool.turn_s) * self.config.admit_margin
        if need <= left:
            return
        if not pool.items and now - pool.tried_at > TRY_S:
            pool.tried_at = now
            return
        text = f"it would take about {need:.2g} s, the deadline is in {left:.2g} s"
        error = Overloaded(text)
        error.reason, error.need_s = "hopeless", need
        error.retry_after = min(max(need - left, MIN_RETRY_S), MAX_RETRY_S)
        raise error

    def came(self, request: Request, now: float, *, in_time: bool = True) -> None:
        """One that had to wait got its answer, or was given up at its deadline: the estimate is held against it. What
        waits longer by its priority, or was asked twice, says nothing of the estimate."""
        if request.expected > 0 and request.attempts <= 1 and request.priority >= 0:
            self.margin.add((now - request.since) / request.expected if in_time else math.inf)

    def entered(self, size: int) -> None:
        self.items += 1
        self.bytes += size

    def left(self, size: int) -> None:
        self.items -= 1
        self.bytes -= size

    def served(self, count: int, now: float) -> None:
        """Requests got an answer."""
        self._served += count
        elapsed = now - self._since
        if elapsed >= WINDOW_S:
            rate = self._served / elapsed
            self.rate = rate if not self.rate or elapsed > 4 * WINDOW_S else 0.5 * (self.rate + rate)
            self._since, self._served = now, 0

    def overloaded(self, why: str) -> Overloaded:
        """The error, with the time in which what waits now should be through."""
        error = Overloaded(f"the queue is full: {why}")
        error.reason = "queue_full"
        wait = self.items / self.rate if self.rate else 1.0
        error.retry_after = min(max(wait, MIN_RETRY_S), MAX_RETRY_S)
        error.hint = f"try again in {error.retry_after:.2g} s"
        return error


def pace(pool: Pool, now: float, most: int) -> None:
    """Work out seconds per row with all able workers (`row_s`), a full turn of one, queue in flight included
    (`turn_s`), and the least that one row takes (`floor_s`). Unknown costs count as nothing."""
    speed = turns = 0.0
    floor, able = 0.0, 0
    for slot in pool.slots:
        if slot.worker.suspect or (slot.breaker.circuit is Circuit.OPEN and not slot.forced):
            continue
        cost = slot.cost
        rows = slot.best_rows(most) if slot.batchable else max(slot.typical_rows, 1.0)
        batch = cost.fixed + cost.per_row * rows
        if batch > 0:
            speed += rows / batch
        least = slot.limit.base + cost.fixed + cost.per_row
        floor = least if not able or least < floor else floor
        turns += slot.limit.base + batch * slot.limit.batches
        able += 1
    pool.paced_at = now
    pool.row_s = 1 / speed if speed else 0.0
    pool.turn_s = turns / able if able else 0.0
    pool.floor_s = floor
