"""How models are served, as edges tell it: counts by edge and version over their restarts, and what was lately. Pure.

An edge counts from its start; what an earlier process of it counted is kept here beside. The cloud keeps none of it on
disk: after its own restart it knows what the edges that run have counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from msrt.protocol.messages import ServedRow, ServingReport
from msrt.serving.tally import BUCKETS, Row, merged, quantile

__all__ = ["LATELY_S", "OWN", "Served", "added", "less", "of_row", "said"]

Key = tuple[str, int]
OWN: Final = "cloud"
"""The cloud's own engine, among the edges."""
LATELY_S: Final = 10.0
"""Over what `lately` looks back."""
MOST: Final = 4096
"""Versions of one edge; who was heard of longest ago goes first."""
_SUMS: Final = (
    "answered", "faults", "batches", "rows", "queue_us", "compute_us", "hits", "misses", "elsewhere", "escalated",
    "copies", "judged", "disagreed",
)  # fmt: skip


class _Known:
    """One version at one edge."""

    __slots__ = ("boot", "latest", "past", "recent", "total")

    def __init__(self, boot: int, row: ServedRow) -> None:
        self.boot, self.latest = boot, row
        self.past: ServedRow | None = None
        """What earlier processes counted."""
        self.total = row
        """All of them together: the same object until something new is said."""
        self.recent: deque[tuple[float, ServedRow]] = deque()
        """(when, total), the first one just before the time that is looked back on."""

    def say(self, boot: int, row: ServedRow) -> None:
        if self.boot != boot:
            self.past, self.boot = self.total, boot
        self.latest = row
        self.total = row if self.past is None else added((self.past, row))


class Served:
    """By edge (its node id) and version."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[Key, _Known]] = {}

    def report(self, node: str, report: ServingReport, now: float) -> None:
        """What an edge counted; the latest word on a version holds."""
        known = self._edges.setdefault(node, {})
        for row in report.rows:
            if not _sane(row):
                continue
            key = (row.model, row.version)
            one = known.pop(key, None)
            if one is None:
                if len(known) >= MOST:
                    del known[next(iter(known))]
                one = _Known(report.boot, row)
                one.recent.append((now, ServedRow(row.model, row.version) if self._heard(node) else row))
            one.say(report.boot, row)
            known[key] = one  # the last heard of is the last to go
            one.recent.append((now, one.total))
            while len(one.recent) > 1 and one.recent[1][0] <= now - LATELY_S:
                one.recent.popleft()

    def _heard(self, node: str) -> bool:
        """Whether a version that is new to us is new there as well: we have listened to it for a while."""
        return bool(self._edges.get(node))

    def totals(self, model: str, *versions: int) -> dict[str, dict[int, ServedRow]]:
        """All that edges counted of these versions: edge to version to counts. A row stays the same object until
        something new is said."""
        found = {
            node: {version: known[model, version].total for version in versions if (model, version) in known}
            for node, known in self._edges.items()
            if node != OWN
        }
        return {node: rows for node, rows in found.items() if rows}

    def lately(self, now: float, model: str = "") -> Iterator[tuple[str, ServedRow, ServedRow, float]]:
        """(edge, total, of it in the last seconds, seconds) of each version."""
        for node, known in self._edges.items():
            for (name, _), one in sorted(known.items()):
                if model in ("", name):
                    at, before = one.recent[0]
                    for when, row in one.recent:
                        if when <= now - LATELY_S:
                            at, before = when, row
                    yield node, one.total, less(one.total, before), max(now - at, 1.0)


def _sane(row: ServedRow) -> bool:
    """Counts that something can be made of."""
    numbers = [*(getattr(row, name) for name in _SUMS), *row.failed.values(), *row.latency.values(), *row.latency]
    parts = row.hits + row.elsewhere <= row.answered and row.disagreed <= row.judged
    return parts and min(numbers) >= 0 and max(row.latency, default=0) < BUCKETS


def of_row(row: Row, faults: int = 0) -> ServedRow:
    """A master's own row in the same words."""
    return ServedRow(
        row.model, row.version, row.success, dict(row.failures), faults, row.executions, row.inferences,
        row.queue_ns // 1000, row.compute_ns // 1000, row.hits, row.misses, row.elsewhere, latency=row.histogram,
    )  # fmt: skip


def added(rows: Iterable[ServedRow]) -> ServedRow:
    """Of several edges, or processes, one. They speak of one model."""
    rows = list(rows)
    sums = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    failed: dict[str, int] = {}
    for row in rows:
        for code, count in row.failed.items():
            failed[code] = failed.get(code, 0) + count
    latency = merged(row.latency for row in rows)
    return ServedRow(rows[0].model, rows[0].version, failed=failed, latency=latency, **sums)


def less(row: ServedRow, before: ServedRow) -> ServedRow:
    """What came since."""
    sums = {name: max(0, getattr(row, name) - getattr(before, name)) for name in _SUMS}
    failed = {code: count - before.failed.get(code, 0) for code, count in row.failed.items()}
    latency = {at: count - before.latency.get(at, 0) for at, count in row.latency.items()}
    return msgspec.structs.replace(
        row, **sums, failed={code: n for code, n in failed.items() if n > 0},
        latency={at: n for at, n in latency.items() if n > 0},
    )  # fmt: skip


def said(row: ServedRow, seconds: float = 0.0) -> dict[str, Any]:
    """For people: of what `seconds` brought rates, of all time shares. Times in milliseconds; None: nothing to say."""
    failed, own = sum(row.failed.values()), max(0, row.answered - row.hits - row.elsewhere)
    out: dict[str, Any] = {
        "requests": row.answered + failed, "errors": failed,
        "error_share": failed / (row.answered + failed) if row.answered + failed else None,
        "p50_ms": quantile(row.latency, 0.5) / 1000 if row.latency else None,
        "p99_ms": quantile(row.latency, 0.99) / 1000 if row.latency else None,
        "queue_ms": row.queue_us / own / 1000 if own else None,
        "compute_ms": row.compute_us / own / 1000 if own else None,
        "batch": row.rows / row.batches if row.batches else None,
        "cache_hits": row.hits / (row.hits + row.misses) if row.hits + row.misses else None,
        "escalated": row.escalated / row.rows if row.escalated and row.rows else None,
        "elsewhere": row.elsewhere / row.answered if row.elsewhere else None,
        "copies": row.copies or None, "disagree": row.disagreed / row.judged if row.judged else None,
    }  # fmt: skip
    if seconds:
        out["per_s"] = (row.answered + failed) / seconds
    return out
