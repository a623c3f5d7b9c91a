"""Copies for a candidate, made when the answer is on its way, flown when a device has nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.mirror import Line, Report, ShadowView
from msrt.dispatch.overflow import HOPS
from msrt.dispatch.policy import ModelPolicy
from msrt.inference.tensors import array_of
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.world.world import World
from msrt_edge.stages.call import Call

__all__ = ["Mirroring"]

log = structlog.get_logger()
COPY_S = 5.0
"""A copy's own deadline; the caller's has nothing to do with it."""
AGAIN_S = 0.05


class Mirroring:
    """`shadow` asks for a copy; `room()` says how many devices have nothing to do."""

    def __init__(
        self, world: World, model: str, policy: ModelPolicy, following: Call, shadow: Call, room: Callable[[], int]
    ) -> None:
        self._world, self._version = world, policy.shadow
        self._next, self._shadow, self._room = following, shadow, room
        self.line = Line(policy.shadow_share)
        self.report = Report(model, policy.shadow)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def infer(self, request: InferRequest) -> InferAnswer:
        began = self._world.now()
        answer = await self._next(request)
        plain = not (request.version or request.sequence)
        if plain and answer.version != self._version and self.line.wants():
            now = self._world.now()
            self.line.put((request, answer, now - began), now)
            self._later(0.0)
        return answer

    def view(self) -> ShadowView:
        """What is known so far."""
        return self.report.view(self.line.dropped)

    def close(self) -> None:
        """The policy changed: nobody asks for this any more."""
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fly)

    def _fly(self) -> None:
        self._timer = None
        for request, answer, took in self.line.take(self._room(), self._world.now()):
            task = asyncio.get_running_loop().create_task(self._copy(request, answer, took))
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)
        if len(self.line):
            self._later(AGAIN_S)

    async def _copy(self, request: InferRequest, answer: InferAnswer, took: float) -> None:
        began = self._world.now()
        copy = msgspec.structs.replace(request, version=self._version, priority=-1, timeout_s=COPY_S, hops=HOPS)
        try:
            found = await self._shadow(copy)
            self.report.against = answer.version
            first, other = (array_of(one.outputs[0], one.frames[0]) for one in (answer, found))
            self.report.compared(first, other, took, self._world.now() - began)
        except (errors.MsrtError, IndexError) as error:
            self.report.failure()
            log.debug("shadow.failed", model=request.model, version=self._version, error=errors.words_of(error))
        finally:
            self.line.landed()
            if len(self.line):
                self._later(0.0)
