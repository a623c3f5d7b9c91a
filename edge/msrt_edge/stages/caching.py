"""Answers from memory, and one computation for all who ask the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from msrt import errors
from msrt.dispatch.cache import Cache, key_of
from msrt.dispatch.policy import ModelPolicy
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.tally import Tally
from msrt.world.world import World
from msrt_edge.stages.call import Call, marked

__all__ = ["Caching"]


class _Flight:
    """One computation and how many wait for it."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[InferAnswer]) -> None:
        self.task, self.waiters = task, 0


class Caching:
    """`settled(request)`: the one version that answers it, 0 while there are two: then nothing is taken from here, so
    that a canary sees its traffic."""

    def __init__(
        self,
        world: World,
        policy: ModelPolicy,
        settled: Callable[[InferRequest], int],
        following: Call,
        tally: Tally,
    ) -> None:
        self._world, self._settled, self._next, self._tally = world, settled, following, tally
        self.cache: Cache[InferAnswer] = Cache(policy.cache_bytes, policy.cache_age_s)
        self._serving = 0
        self._flights: dict[bytes, _Flight] = {}
        self.shared = 0

    def serving(self, version: int) -> None:
        """This one answers who names none: what another one answered is forgotten."""
        if version != self._serving:
            self._serving = version
            self.cache.clear()

    async def infer(self, request: InferRequest) -> InferAnswer:
        version = 0 if request.sequence else self._settled(request)
        if not version:
            return await self._next(request)
        key = key_of(version, request.inputs, request.frames, request.outputs)
        began = self._world.now()
        until = began + request.timeout_s
        row = self._tally.row(request.model, version)
        for last in (False, True):
            now = self._world.now()
            found = self.cache.get(key, now)
            if found is not None:
                row.hit(now - began, now)
                return marked(found, cached=True)
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                row.missed(now - began)
                flight = self._take_off(key, version, msgspec.structs.replace(request, timeout_s=until - now))
            try:
                answer = await self._wait(flight, until - now)
            except errors.DeadlineExceeded:  # perhaps only that of who asked first
                if leads or last or self._world.now() >= until:
                    raise
                continue
            if leads:
                return answer
            self.shared += 1
            now = self._world.now()
            row.hit(now - began, now)
            return marked(answer, cached=True)
        raise errors.DeadlineExceeded("nobody answered in time")

    async def _wait(self, flight: _Flight, within_s: float) -> InferAnswer:
        flight.waiters += 1
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            raise errors.DeadlineExceeded("nobody answered in time") from None
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()  # of one that is done: nothing

    def _take_off(self, key: bytes, version: int, request: InferRequest) -> _Flight:
        task = asyncio.get_running_loop().create_task(self._compute(key, version, request))
        flight = self._flights[key] = _Flight(task)
        task.add_done_callback(lambda done: self._landed(key, flight, done))
        return flight

    def _landed(self, key: bytes, flight: _Flight, done: asyncio.Task[InferAnswer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not done.cancelled():
            done.exception()  # whoever waited has heard it

    async def _compute(self, key: bytes, version: int, request: InferRequest) -> InferAnswer:
        answer = await self._next(request)
        if answer.version == version and answer.marks.get("escalated") != "unavailable":
            frames = tuple(bytes(frame) for frame in answer.frames)  # not a view of its whole batch
            kept = msgspec.structs.replace(answer, frames=frames)
            if request.version or version == self._settled(request):
                self.cache.put(key, kept, sum(map(len, frames)), self._world.now())
        return answer
