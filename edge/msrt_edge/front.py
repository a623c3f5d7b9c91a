"""What an edge offers over HTTP: the Open Inference Protocol of its region, events, metrics, and its neighbours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence

from msrt.protocol.messages import Event, Parent
from msrt.serving.backend import InferAnswer, InferRequest, ModelInfo
from msrt_edge.master import Edge

__all__ = ["EdgeFront"]


class EdgeFront:
    """Implements msrt.serving.Backend."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def infer(self, request: InferRequest) -> Awaitable[InferAnswer]:
        return self._edge.service.infer(request)

    def metadata(self, model: str, version: int = 0) -> ModelInfo:
        return self._edge.fleet.metadata(model, version)

    def ready(self, model: str = "", version: int = 0) -> bool:
        if not model:
            return self._edge.ready.is_set()
        fleet = self._edge.fleet
        return fleet.ready_somewhere(model, fleet.serving(model, version))

    def edges(self) -> Sequence[Parent]:
        return self._edge.known_edges

    def metrics(self) -> bytes:
        edge, metrics = self._edge, self._edge.metrics
        metrics.queue_depth.labels("requests").set(edge.dispatcher.queued)
        metrics.event_backlog.set(edge.events.upward.outbox.size)
        metrics.artifact_stored.set(edge.artifacts.held_bytes)
        metrics.parent_away.set(edge.cloud_away_s)
        for scope, offset in edge.follower.replica.durable.items():
            metrics.journal_offset.labels(scope).set(offset)
        for job, (round_, reported, expected) in edge.training.progress.items():
            metrics.round.labels(job).set(round_)
            metrics.round_progress.labels(job).set(reported / max(1, expected))
        for table in edge.fleet.serving_versions():
            metrics.model_version.labels(table.model, "").set(table.candidate or table.stable)
        return metrics.render()

    def events(self, model: str, device: str) -> AsyncIterator[Event]:
        return self._edge.events.follow(model, device)
