"""What speaks for and against a canary: its requests since it began, beside those of the version that serves. Pure.

Three shares are compared: requests that devices could not answer, answers slower than the time which 95 % of the stable
version's kept to, and copies whose answers differ (where the candidate is the model's shadow). The mark of slowness is
laid once, by answers of the stable version alone; only what comes after is counted against it, on either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from msrt.dispatch.sequential import Compared, Finding, Judgement, Limits, judge
from msrt.protocol.messages import ServedRow
from msrt.serving.tally import starts, within
from msrt_cloud.served import added, less

__all__ = ["Bounds", "Evidence"]

Totals = Mapping[str, Mapping[int, ServedRow]]
MARK: Final = 0.95
MARKED_BY: Final = 200
"""Answers of the stable version that lay the mark."""
KINDS: Final = 3
"""Comparisons among which the error rate is shared, also where one is not made."""


class Bounds(msgspec.Struct, frozen=True):
    """By how much a canary may be worse, as shares, and how sure one has to be."""

    errors: float = 0.02
    slow: float = 0.15
    disagreement: float = 0.2
    limits: Limits = Limits()


class Evidence:
    """Of one canary. After a restart of the cloud it begins again: it holds no more than what it saw itself."""

    def __init__(self, version: int, stable: int, bounds: Bounds) -> None:
        self.version, self.stable, self._bounds = version, stable, bounds
        self._seen: dict[tuple[str, int], ServedRow] = {}
        """What was last looked at, by edge and version."""
        self._edges: set[str] | None = None
        """Those whose counts have begun here."""
        self._since = {number: ServedRow("", number) for number in (version, stable)}
        self._marked: tuple[int, ServedRow, ServedRow] | None = None
        """The last bucket that is not slow, and both sides when it was laid."""
        self.judgements: list[Judgement] = []
        self.finding = Finding.OPEN
        self.requests = self.stable_requests = 0

    def look(self, totals: Totals, *, shadowed: bool = False) -> Finding:
        """With what all edges have counted. `shadowed`: its answers are compared with those that were given."""
        self._add(totals)
        one, stable = self._since[self.version], self._since[self.stable]
        self.requests, self.stable_requests = _tried(one), _tried(stable)
        rows = [
            Compared("errors", self._bounds.errors, one.faults, _tried(one), stable.faults, _tried(stable)),
            self._slow(one, stable),
        ]
        if shadowed:
            rows.append(Compared("disagreement", self._bounds.disagreement, one.disagreed, one.judged, absolute=True))
        limits = self._bounds.limits
        shared = Limits(limits.alpha * len(rows) / KINDS, limits.beta)
        self.finding, self.judgements = judge(rows, shared)
        return self.finding

    def _add(self, totals: Totals) -> None:
        """Only what changed: there may be many edges, and one looks often."""
        for node, versions in totals.items():
            fresh = self._edges is None or node not in self._edges  # what it counted before is not this canary's
            for version, row in versions.items():
                seen = self._seen.get((node, version), row if fresh else ServedRow("", version))
                if seen is not row:
                    self._since[version] = added([self._since[version], less(row, seen)])
                self._seen[node, version] = row
        self._edges = (self._edges or set()) | totals.keys()

    def _slow(self, one: ServedRow, stable: ServedRow) -> Compared:
        if self._marked is None:
            counts = stable.latency
            if sum(counts.values()) < MARKED_BY:
                return Compared("slow answers", self._bounds.slow, 0, 0)
            need = MARK * sum(counts.values())
            mark = next(bucket for bucket in sorted(counts) if within(counts, bucket) >= need)
            self._marked = mark, one, stable
        mark, one_then, stable_then = self._marked
        (slow, of), (stable_slow, stable_of) = (
            _beyond(less(now, then).latency, mark) for now, then in ((one, one_then), (stable, stable_then))
        )
        return Compared("slow answers", self._bounds.slow, slow, of, stable_slow, stable_of)

    def against(self) -> str:
        """What speaks against it."""
        return "; ".join(one.sentence() for one in self.judgements if one.finding is Finding.BAD)

    def summary(self) -> str:
        """All that is known, in a line."""
        return "; ".join(one.sentence() for one in self.judgements)

    def rows(self) -> list[dict[str, Any]]:
        """For `msrt model rollout`."""
        mark = starts(self._marked[0] + 1) / 1000 if self._marked else None
        return [
            {
                "what": one.compared.what, "finding": one.finding.value, "share": one.compared.share,
                "of": one.compared.of, "stable_share": None if one.compared.absolute else one.compared.stable_share,
                "stable_of": one.compared.stable_of, "low": one.low, "high": one.high, "effect": one.compared.effect,
                **({"slower_than_ms": mark} if one.compared.what == "slow answers" else {}),
            }
            for one in self.judgements
        ]  # fmt: skip


def _tried(row: ServedRow) -> int:
    """Requests that devices were given, and answered or not."""
    return max(0, row.answered - row.hits - row.elsewhere) + row.faults


def _beyond(counts: Mapping[int, int], mark: int) -> tuple[int, int]:
    """How many of how many are above a bucket."""
    of = sum(counts.values())
    return of - within(counts, mark), of
