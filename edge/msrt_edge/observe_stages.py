"""What policies add to models, as metrics: caches, cascades, shadows, overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msrt_edge.master import Edge

__all__ = ["observe_stages"]

Values = dict[tuple[str, ...], float]


def observe_stages(edge: Edge) -> None:
    """Register them with the edge's metrics."""
    metrics, service = edge.metrics, edge.service

    def caches() -> Values:
        return {(m,): float(c.caching.cache.bytes) for m, c in service.chains.items() if c.caching is not None}

    def evicted() -> Values:
        out: Values = {}
        for model, chain in service.chains.items():
            if chain.caching is not None:
                out[model, "evicted"] = chain.caching.cache.evicted
                out[model, "shared"] = chain.caching.shared
        return out

    def cascades() -> Values:
        out: Values = {}
        for model, chain in service.chains.items():
            if chain.cascading is not None:
                threshold = chain.cascading.threshold
                out[model, "seen"], out[model, "escalated"] = threshold.rows, threshold.escalated
                out[model, "unbudgeted"] = threshold.unbudgeted
        return out

    def shadows() -> Values:
        out: Values = {}
        for model, chain in service.chains.items():
            if chain.mirroring is not None:
                report, line = chain.mirroring.report, chain.mirroring.line
                out[model, "compared"], out[model, "failed"] = report.copies - report.failed, report.failed
                out[model, "dropped"] = line.dropped
        return out

    metrics.gauges("cache_bytes", "Bytes of kept answers.", ("model",), caches)
    metrics.tally("cache_events_total", "Answers that made room, and that were computed once for several callers.",
                  ("model", "event"), evicted)  # fmt: skip
    metrics.tally("cascade_rows_total", "Rows of a cascade's smaller model, and what became of the unsure ones.",
                  ("model", "step"), cascades)  # fmt: skip
    metrics.tally(
        "cascade_unavailable_total", "Requests that got the smaller model's answer for want of the larger.", ("model",),
        lambda: {(m,): c.cascading.unavailable for m, c in service.chains.items() if c.cascading is not None},
    )  # fmt: skip
    metrics.gauges(
        "cascade_threshold", "Confidence below which a row goes up.", ("model",),
        lambda: {(m,): c.cascading.threshold.value for m, c in service.chains.items() if c.cascading is not None},
    )  # fmt: skip
    metrics.tally("shadow_copies_total", "Copies for a candidate.", ("model", "outcome"), shadows)
    metrics.gauges(
        "shadow_agreement", "Share of rows that the candidate answers alike.", ("model",),
        lambda: {
            (m,): c.mirroring.report.agreed / c.mirroring.report.classified
            for m, c in service.chains.items()
            if c.mirroring is not None and c.mirroring.report.classified
        },
    )  # fmt: skip
    metrics.tally(
        "overflow_total", "Requests asked of another region or the cloud; kept: they could not either.", ("step",),
        lambda: {("passed",): service.overflowing.passed, ("kept",): service.overflowing.kept},
    )  # fmt: skip
