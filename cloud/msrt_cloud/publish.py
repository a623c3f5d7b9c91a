"""A finished job's model goes straight to the registry, through the gate that everybody's goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msrt.buffers import Buffer
from msrt.training.settings import Publish
from msrt.training.trainer import Workshop
from msrt_cloud.registry import Push

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["publish"]

EXPORT_S = 300.0


async def publish(training: Training, workshop: Workshop, wanted: Publish, weights: Buffer) -> dict[str, Any]:
    """Export, judge, quantise, register; what the registry says of it. Raises JobFailed, InvalidModel, QualityGate."""
    export = await workshop.export(weights, EXPORT_S)
    put = training.artifacts.put_bytes
    push = Push(
        name=wanted.model, file=await put(export.onnx), max_drop=wanted.max_drop,
        calibrate=await put(export.calibration) if export.calibration else "",
        eval=await put(export.evaluation) if export.evaluation else "",
    )  # fmt: skip
    return await training.registry.push(push)
