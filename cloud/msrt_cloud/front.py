"""What the cloud offers over HTTP: health, metrics, where the edges are, the registry, and inference (by its own
engine, or passed on to an edge)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import msgspec

from msrt.protocol.messages import Event, Parent
from msrt.serving.backend import InferAnswer, InferRequest, ModelInfo
from msrt_cloud.master import Cloud

__all__ = ["CloudFront"]

WAIT_S = 10.0


class CloudFront:
    """Implements msrt.serving.Backend."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def infer(self, request: InferRequest) -> Awaitable[InferAnswer]:
        self._cloud.check_open()
        return self._cloud.serving.infer(request)

    def metadata(self, model: str, version: int = 0) -> ModelInfo:
        self._cloud.check_open()
        manifest, _ = self._cloud.registry.find(model, version)
        versions = tuple(sorted(self._cloud.writer.state.models[manifest.model]))
        return ModelInfo(manifest.model, versions, manifest.inputs, manifest.outputs, labels=manifest.labels)

    def ready(self, model: str = "", version: int = 0) -> bool:
        if not model:
            return self._cloud.ready.is_set()
        self._cloud.check_open()
        self._cloud.registry.find(model, version)
        return self._cloud.serving.ready(model, version)

    def edges(self) -> Sequence[Parent]:
        return self._cloud.fleet.parents("")

    def metrics(self) -> bytes:
        metrics, cloud = self._cloud.metrics, self._cloud
        cloud.check_open()
        for scope, offset in cloud.writer.log.positions.items():
            metrics.journal_offset.labels(scope).set(offset)
        metrics.artifact_stored.set(cloud.artifacts.held_bytes)
        for row in cloud.training.rows(""):
            metrics.round.labels(row["job"]).set(row["round"])
            metrics.round_progress.labels(row["job"]).set(row["reported"] / max(1, row["expected"]))
        return metrics.render()

    async def events(self, model: str, device: str) -> AsyncIterator[Event]:
        self._cloud.check_open()
        after = self._cloud.events.last
        while True:
            found = await self._cloud.events.after(after, model, device, 500, WAIT_S)
            after = found["next"]
            for row in found["events"]:
                yield msgspec.convert({k: v for k, v in row.items() if k != "offset"}, Event)
            await asyncio.sleep(0)
