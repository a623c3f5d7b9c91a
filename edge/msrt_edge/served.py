"""What the cloud hears of how this edge served: versions of which something changed, so many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from msrt import errors
from msrt.hop import Peer
from msrt.protocol.messages import ServedRow, ServingReport
from msrt.serving.tally import Row

if TYPE_CHECKING:
    from msrt_edge.master import Edge

__all__ = ["ROWS", "Served"]

log = structlog.get_logger()
ROWS: Final = 64
"""Versions in one report: some tens of kilobytes at most."""


class Served:
    """Compares what there is with what was told, and tells the difference; who was told longest ago comes first."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._told: dict[tuple[str, int], ServedRow] = {}

    def restart(self) -> None:
        """The cloud is here (again), and knows nothing."""
        self._told.clear()

    def tell(self, peer: Peer) -> None:
        """Say what is new to this cloud."""
        now = self._now()
        changed = [key for key in [*self._told, *now] if key in now and now[key] != self._told.get(key)]
        keys = list(dict.fromkeys(changed))[:ROWS]
        self._told = {key: row for key, row in self._told.items() if key in now}
        if not keys:
            return
        rows = tuple(now[key] for key in keys)
        try:
            peer.send(ServingReport(self._edge.hello.boot, rows))
        except (errors.Disconnected, errors.Overloaded, errors.FrameTooLarge) as error:
            log.info("edge.serving_held_back", rows=len(rows), error=error.text)
            return
        for key, row in zip(keys, rows, strict=True):
            self._told.pop(key, None)  # to the end of the line
            self._told[key] = row

    def _now(self) -> dict[tuple[str, int], ServedRow]:
        edge = self._edge
        rows = {(row.model, row.version): row for row in edge.tally.rows()}
        for model, versions in edge.dispatcher.counters.faults.items():
            for version in versions:
                rows.setdefault((model, version), Row(model, version))
        for model, version in edge.service.shadowed():
            rows.setdefault((model, version), Row(model, version))
        return {key: self._said(row) for key, row in rows.items()}

    def _said(self, row: Row) -> ServedRow:
        edge = self._edge
        up, copies, judged, disagreed = edge.service.seen(row.model, row.version)
        return ServedRow(
            row.model, row.version, row.success, dict(row.failures),
            edge.dispatcher.counters.faults.get(row.model, {}).get(row.version, 0), row.executions, row.inferences,
            row.queue_ns // 1000, row.compute_ns // 1000, row.hits, row.misses, row.elsewhere, up, copies, judged,
            disagreed, row.histogram,
        )  # fmt: skip
