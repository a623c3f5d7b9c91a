"""What an edge's parts count by themselves, shown at /metrics; nothing here runs until somebody looks."""

from __future__ import annotations

from msrt.telemetry.dispatching import batch_rows, watch_dispatcher
from msrt.telemetry.links import link_bytes
from msrt.telemetry.serving import shown
from msrt.telemetry.trusting import observe_trust
from msrt_edge.master import Edge
from msrt_edge.observe_stages import observe_stages

__all__ = ["observe"]


def observe(edge: Edge) -> None:
    """Register the edge's counters with its metrics."""
    edge.metrics.text(shown(edge.tally, lambda: _waiting(edge)))
    edge.metrics.text(batch_rows(lambda: edge.tally))
    watch_dispatcher(edge.metrics, lambda: edge.dispatcher)
    observe_stages(edge)
    tally, counters = edge.metrics.tally, edge.dispatcher.counters
    tally(
        "retries_total", "Requests tried again, and workers that fell silent.", ("reason",),
        lambda: {("retried",): counters.retried, ("stalled",): counters.stalled},
    )  # fmt: skip
    tally(
        "answers_refused_total", "Answers of devices that were late or of the wrong shape.", ("reason",),
        lambda: {("late",): counters.late, ("invalid",): counters.invalid},
    )  # fmt: skip
    tally("batches_total", "Batches sent to devices.", (), lambda: {(): counters.sent})
    tally("refused_total", "Packets that were no messages, or not allowed.", (), lambda: {(): edge.refused})
    tally("link_bytes_total", "Bytes of packets.", ("link", "direction"), lambda: link_bytes(edge.links))
    tally(
        "events_total", "Durable events of devices.", ("step",),
        lambda: {("taken",): edge.events.received, ("duplicate",): edge.events.duplicates},
    )  # fmt: skip
    tally(
        "dropped_total", "Thrown away by a queue's stated policy.", ("queue",),
        lambda: {("events",): edge.events.dropped, ("webhook",): edge.events.hook_dropped},
    )  # fmt: skip
    edge.metrics.gauges(
        "training_region_reported", "Devices of this region whose update of the open round is here.", ("job",),
        lambda: {(job,): float(reported) for job, (_, reported, _) in edge.training.progress.items()},
    )  # fmt: skip
    edge.metrics.gauges(
        "training_region_expected", "Devices of this region that take part in the open round.", ("job",),
        lambda: {(job,): float(expected) for job, (_, _, expected) in edge.training.progress.items()},
    )  # fmt: skip
    observe_trust(edge.metrics, lambda: edge.trust)
    tally("artifact_corrupt_total", "Damaged artifacts found.", ("where",), lambda: {("disk",): edge.artifacts.corrupt})


def _waiting(edge: Edge) -> dict[tuple[str, int], int]:
    """Requests in the queues, by the version that they will most likely get."""
    return {
        (table.model, table.stable or table.candidate): edge.dispatcher.waiting(table.model)
        for table in edge.fleet.serving_versions()
    }
