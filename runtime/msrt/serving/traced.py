"""A master's spans around its requests: the whole of one, and each step that a policy adds.

All of it is for requests that are traced: the others are asked of `wants` once, at their head, and see none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from msrt.errors import MsrtError
from msrt.protocol.messages import Mark
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.trails import Trails
from msrt.telemetry.context import is_sampled
from msrt.telemetry.spans import INTERNAL, SERVER, Tracer

__all__ = ["TIMES", "TRACEPARENT", "Tracing", "staged", "traced"]

Call = Callable[[InferRequest], Awaitable[InferAnswer]]
TRACEPARENT: Final = "traceparent"
"""Mark of an answer whose request was traced: the span of the master that was asked."""
TIMES: Final = "trace_"
"""How the marks begin that say where the time went; for callers that asked to be traced."""


async def traced(
    tracer: Tracer, name: str, request: InferRequest, follow: Call, kind: str = INTERNAL, **attributes: Mark
) -> InferAnswer:
    """Do it, as one span; what it asks further is below that."""
    span = tracer.start(name, request.trace, kind).set(model=request.model, **attributes)
    try:
        answer = await follow(msgspec.structs.replace(request, trace=span.trace))
    except MsrtError as error:
        span.end(error=error.code)
        raise
    except asyncio.CancelledError:
        span.end(error="cancelled")
        raise
    said = {key: value for key, value in answer.marks.items() if key != TRACEPARENT and not key.startswith(TIMES)}
    span.set(**said).set(version=answer.version, variant=answer.variant, device=answer.device).end()
    return answer


def staged(tracer: Tracer | None, name: str, call: Call) -> Call:
    """The same stage, as a span where its request is traced."""
    if tracer is None:
        return call

    def follow(request: InferRequest) -> Awaitable[InferAnswer]:
        return traced(tracer, name, request, call) if is_sampled(request.trace) else call(request)

    return follow


class Tracing:
    """One master's. `name(node)`: a worker's name, for people."""

    def __init__(self, tracer: Tracer, name: Callable[[str], str]) -> None:
        self.tracer, self.trails = tracer, Trails(tracer, name)
        self.wants = tracer.wants

    async def infer(self, request: InferRequest, follow: Call) -> InferAnswer:
        """A request that is traced, from its head to its end here. Who asked for that is told where the time went."""
        span = self.tracer.start("infer", request.trace, SERVER).set(model=request.model, priority=request.priority)
        began, number = span.began, span.context.trace_id
        told = self.trails.listen(number) if is_sampled(request.trace) else None
        if request.hops:
            span.set(hops=request.hops)
        try:
            answer = await follow(msgspec.structs.replace(request, trace=span.trace))
        except MsrtError as error:
            span.end(error=error.code)
            error.traceparent = span.context.traceparent
            raise
        except asyncio.CancelledError:
            span.end(error="cancelled")
            raise
        finally:
            self.trails.forget(number)
        ended = self.tracer.now()
        said = {key: value for key, value in answer.marks.items() if key != TRACEPARENT and not key.startswith(TIMES)}
        span.set(**said).set(version=answer.version, variant=answer.variant, device=answer.device).end(ended)
        marks = {**answer.marks, TRACEPARENT: span.context.traceparent}
        if told is not None:
            marks |= told
            marks[f"{TIMES}total_us"] = round((ended - began) * 1e6)
        return msgspec.structs.replace(answer, marks=marks)
