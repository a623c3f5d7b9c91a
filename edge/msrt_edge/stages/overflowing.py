"""A region that is full, or has nobody for a model, asks a neighbour or the cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import structlog

from msrt import errors
from msrt.dispatch.events import Request
from msrt.dispatch.overflow import TRIES, Path, choose
from msrt.hop import Peer
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.relay import Relay
from msrt.serving.traced import traced
from msrt.telemetry.context import is_sampled
from msrt.telemetry.spans import Tracer
from msrt.world.world import World
from msrt_edge.stages.call import marked

__all__ = ["CLOUD", "Overflowing", "Spilled"]

log = structlog.get_logger()
CLOUD: Final = "cloud"
MOST: Final = 512
"""Requests of ours that others may be asked at a time: who is full does not drown its neighbours."""
MARGIN: Final = 0.9
"""Of what is left of a request's time, what others get."""
UNPROVEN_S: Final = 2.0
"""What a way gets that was never gone."""


class Spilled(Protocol):
    """Where requests that were taken elsewhere come back to."""

    def asker(self, request: Request) -> str: ...
    def passed(self, request: Request, answer: InferAnswer) -> None: ...
    def not_passed(self, request: Request, error: errors.MsrtError) -> None: ...


class Overflowing:
    """`reach(name, seconds)`: a live peer of that neighbour, or of the cloud. Raises Disconnected."""

    def __init__(
        self,
        world: World,
        relay: Relay,
        reach: Callable[[str, float], Awaitable[Peer]],
        allowed: Callable[[str], bool],
        served: Spilled,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._world, self._relay, self._reach, self._allowed, self._served = world, relay, reach, allowed, served
        self._paths: dict[str, Path] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.passed = self.kept = 0

    def ways(self, found: Iterable[tuple[str, str]]) -> None:
        """The ways there are now: (name, region); what was measured on those that stay is kept."""
        wanted = dict(found)
        self._paths = {name: self._paths.get(name) or Path(name, region) for name, region in wanted.items()}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- what the dispatcher could not place -------------------------------------------------------------------

    def spill(self, request: Request, error: errors.MsrtError) -> bool:
        """Take it, if there is a way: it comes back to `served`."""
        left = request.deadline - self._world.now()
        if request.sequence or not self._allowed(request.model):
            return False
        asked = InferRequest(
            request.model, request.inputs, request.frames, left, request.version, request.outputs, request.trace,
            request.priority, hops=request.hops,
        )  # fmt: skip
        asker = self._served.asker(request)
        if not self.open(asked, asker):
            return False
        task = asyncio.get_running_loop().create_task(self._carry(request, asked, asker, error))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        if isinstance(request.token, asyncio.Future):
            request.token.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
        return True

    async def _carry(self, request: Request, asked: InferRequest, asker: str, error: errors.MsrtError) -> None:
        try:
            answer = await self.ask(asked, asker)
        except errors.MsrtError:
            self.kept += 1
            self._served.not_passed(request, error)
        else:
            self._served.passed(request, answer)

    # --- asking ------------------------------------------------------------------------------------------------

    def open(self, request: InferRequest, asker: str = "") -> bool:
        """Whether there is any way for it now."""
        return len(self._relay) < MOST and self._choose(request, asker, request.timeout_s, ()) is not None

    def _choose(self, request: InferRequest, asker: str, left_s: float, tried: Iterable[str]) -> Path | None:
        return choose(
            self._paths.values(), request.model, hops=request.hops, asker=asker, left_s=left_s,
            now=self._world.now(), tried=tried,
        )  # fmt: skip

    async def ask(self, request: InferRequest, asker: str = "") -> InferAnswer:
        """The cheapest way, then the next. Raises what the last one said, Unavailable without any."""
        if self._tracer is not None and is_sampled(request.trace):
            return await traced(self._tracer, "overflow", request, lambda asked: self._ask(asked, asker))
        return await self._ask(request, asker)

    async def _ask(self, request: InferRequest, asker: str) -> InferAnswer:
        until = self._world.now() + request.timeout_s * MARGIN
        tried: list[str] = []
        error: errors.MsrtError = errors.Unavailable("no other region can be asked")
        while len(tried) < TRIES:
            left = until - self._world.now()
            path = self._choose(request, asker, left, tried)
            if path is None:
                break
            tried.append(path.name)
            try:
                return await self._by(path, request, left)
            except errors.MsrtError as failure:
                error = failure
                path.refused(
                    request.model, failure.code, float(getattr(failure, "retry_after", 0.0)), self._world.now()
                )
        raise error

    async def _by(self, path: Path, request: InferRequest, left_s: float) -> InferAnswer:
        began = self._world.now()
        peer = await self._reach(path.name, left_s)
        sent = self._world.now()
        left_s -= sent - began
        if not path.passed:
            left_s = min(left_s, UNPROVEN_S)  # perhaps it does not know what we ask for
        found = await self._relay.ask(peer, request, max(0.001, left_s), request.hops + 1)
        path.answered(self._world.now() - sent, found.compute_s, found.queue_s)
        self.passed += 1
        if "region" in found.answer.marks:
            return found.answer
        return marked(found.answer, region=path.region)
