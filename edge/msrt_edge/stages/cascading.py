"""The small model first; rows that it is not sure of go to a larger one, here or in the tier above."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.cascade import Threshold, Upper
from msrt.dispatch.confidence import confidence
from msrt.dispatch.policy import ModelPolicy
from msrt.inference.bundle import Manifest
from msrt.inference.signature import join_rows, ride_key, split_rows
from msrt.inference.tensors import array_of
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.world.world import World
from msrt_edge.stages.call import Call, marked

__all__ = ["UNAVAILABLE", "Cascading"]

log = structlog.get_logger()
UNAVAILABLE = "unavailable"


class Cascading:
    """`up` asks the larger model; `manifest(model, version)` is what is known of the small one; `tier(answer)` says who
    answered: device, edge or cloud."""

    def __init__(
        self,
        world: World,
        policy: ModelPolicy,
        following: Call,
        up: Call,
        manifest: Callable[[str, int], Manifest | None],
        tier: Callable[[InferAnswer], str],
    ) -> None:
        self._world, self._larger = world, policy.escalate_to
        self._next, self._up, self._manifest, self._tier = following, up, manifest, tier
        self.threshold = Threshold(policy)
        self.upper = Upper()
        self.unavailable = 0
        """Requests that got the local answer because the larger model was away, late or over budget."""

    async def infer(self, request: InferRequest) -> InferAnswer:
        began = self._world.now()
        answer = await self._next(request)
        if request.version or request.sequence:
            return answer
        manifest = self._manifest(request.model, answer.version)
        sure = _sure(manifest, answer) if manifest is not None else None
        if sure is None or manifest is None:
            return answer
        here = self._tier(answer)
        rows, refused = self.threshold.choose(sure)
        if not rows and not refused:
            return marked(answer, answered_by=here)
        left = request.timeout_s - (self._world.now() - began)
        better = await self._ask(request, manifest, rows, len(sure), left) if rows else None
        if better is None:
            self.unavailable += 1
            return marked(answer, answered_by=here, escalated=UNAVAILABLE)
        by = str(better.marks.get("answered_by") or self._tier(better))
        if len(rows) == len(sure):
            return marked(better, answered_by=by, escalated=len(rows))
        merged = _merged(answer, better, rows, len(sure))
        if merged is None:
            log.warning("cascade.outputs_differ", model=request.model, larger=self._larger)
            return marked(answer, answered_by=here, escalated=UNAVAILABLE)
        return marked(merged, answered_by=f"{here}+{by}", escalated=len(rows))

    async def _ask(
        self, request: InferRequest, manifest: Manifest, rows: list[int], count: int, left_s: float
    ) -> InferAnswer | None:
        """The larger model's answer for these rows; None where there is none in time."""
        now = self._world.now()
        patience = self.upper.patience(left_s)
        if self.upper.resting(now) or patience <= 0:
            return None
        inputs, frames = request.inputs, request.frames
        if len(rows) < count and manifest.rides:
            parts = split_rows(inputs, frames, [1] * count)
            chosen, cut = join_rows([parts[row] for row in rows])
            inputs, frames = chosen, tuple(cut)
        asked = msgspec.structs.replace(
            request, model=self._larger, inputs=inputs, frames=frames, timeout_s=patience, outputs=request.outputs
        )
        try:
            async with asyncio.timeout(patience):
                better = await self._up(asked)
        except (TimeoutError, errors.MsrtError) as error:
            self.upper.failed(self._world.now())
            log.info("cascade.no_answer", model=request.model, larger=self._larger, error=errors.words_of(error))
            return None
        self.upper.answered(self._world.now() - now)
        return better


def _sure(manifest: Manifest, answer: InferAnswer) -> list[float] | None:
    """Confidence per row, or one for all where rows mean nothing; None where the answer has no class scores."""
    name = manifest.outputs[0].name
    for spec, frame in zip(answer.outputs, answer.frames, strict=True):
        if spec.name == name and spec.dtype in ("FP32", "FP16", "FP64") and len(spec.shape) >= 2 and spec.shape[-1] > 1:
            found = confidence(array_of(spec, frame), manifest.temperature, manifest.scores)
            return found.tolist() if manifest.rides else [float(found.min())]
    return None


def _merged(answer: InferAnswer, better: InferAnswer, rows: list[int], count: int) -> InferAnswer | None:
    """Our rows with theirs in their places; None where the two models' outputs are not alike."""
    theirs = {spec.name: (spec, frame) for spec, frame in zip(better.outputs, better.frames, strict=True)}
    if any(spec.name not in theirs or theirs[spec.name][0].dtype != spec.dtype for spec in answer.outputs):
        return None
    specs = tuple(theirs[spec.name][0] for spec in answer.outputs)
    if ride_key(specs) != ride_key(answer.outputs):
        return None
    try:
        own = split_rows(answer.outputs, answer.frames, [1] * count)
        new = split_rows(specs, [theirs[spec.name][1] for spec in specs], [1] * len(rows))
    except errors.InvalidTensor:
        return None
    for row, part in zip(rows, new, strict=True):
        own[row] = part
    outputs, frames = join_rows(own)
    return msgspec.structs.replace(answer, outputs=outputs, frames=frames)
