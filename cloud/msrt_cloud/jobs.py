"""What operators may ask of training: the methods train.* of `control`'s table."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from msrt import errors
from msrt.hop import Peer
from msrt_cloud.job_views import judged, listed, report, row, trigger_row
from msrt_cloud.triggering import FRESH, Origin

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["JobList", "JobLogs", "JobName", "JobNodes", "JobReport", "Jobs", "TrainRun"]

CLOUD: Final = "cloud"
"""Name of the workshop among a job's nodes."""
NODES: Final = 64
"""Devices asked for lines in one call."""
AT_ONCE: Final = 16
CHARACTERS: Final = 200_000
"""Of all lines in one answer."""
WAIT_S: Final = 10.0


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class TrainRun(_Params, frozen=True):
    """A bundle that was streamed here before."""

    bundle: str
    start: str = ""
    """A job whose weights it starts from."""


class JobName(_Params, frozen=True):
    """A job; empty: all of them, where that makes sense."""

    job: str = ""


class JobList(_Params, frozen=True):
    """See `msrt train list`."""

    states: list[str] = []
    name: str = ""
    since: float = 0.0
    until: float = 0.0
    """0: no end."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class JobReport(_Params, frozen=True):
    """Its curves, or the end of them."""

    job: str
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Rounds up to this one are known."""


class JobNodes(_Params, frozen=True):
    """How the model serves single nodes, the worst first."""

    job: str
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many of them are known."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000


class JobLogs(_Params, frozen=True):
    """See `msrt train logs`."""

    job: str
    node: str = ""
    lines: Annotated[int, msgspec.Meta(ge=0)] = 20
    after: dict[str, int] = {}
    """Node id to the number of the last line that is known of it."""


class Jobs:
    """The desk for training."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def run(self, peer: Peer, p: TrainRun) -> object:
        size, limit = self._cloud.artifacts.size(p.bundle), self._cloud.setup.config.job_bundle_bytes
        if size is None:
            raise errors.NotFound(f"no job bundle {p.bundle[:12]} was sent here", hint="send it first")
        if size > limit:
            raise errors.FrameTooLarge(size, limit, "job bundle")
        return {"job": await self._cloud.training.create(p.bundle, peer.name, self._origin(p.start))}

    def _origin(self, after: str) -> Origin:
        if not after:
            return FRESH
        job = self._cloud.training.job(after)
        if not job.weights:
            raise errors.Conflict(f"{after} has no weights yet", hint="wait for its first round")
        if job.ended is None:
            raise errors.Conflict(f"{after} still trains", hint="wait for its end, or stop it")
        return Origin(after=after, start=job.weights)

    async def status(self, _peer: Peer, p: JobName) -> object:
        training = self._cloud.training
        if not p.job:
            return training.rows("")
        job = training.job(p.job)
        return [row(training, p.job) | {"trigger": trigger_row(training, job)}]

    async def rows(self, _peer: Peer, p: JobList) -> object:
        return listed(self._cloud.training, p.states, p.name, p.since, p.until, p.limit)

    async def report(self, _peer: Peer, p: JobReport) -> object:
        training = self._cloud.training
        training.job(p.job)
        lines = await self._cloud.world.offload(training.curves.rounds, p.job, p.after)  # thousands, of a long job
        return report(training, p.job, lines)

    async def nodes(self, _peer: Peer, p: JobNodes) -> object:
        training = self._cloud.training
        training.job(p.job)
        return judged(training, p.job, p.after, p.limit)

    async def stop(self, _peer: Peer, p: JobName) -> object:
        await self._cloud.training.stop(p.job)
        return {}

    async def remove(self, _peer: Peer, p: JobName) -> object:
        await self._cloud.training.remove(p.job)
        return {}

    async def pause(self, peer: Peer, p: JobName) -> object:
        await self._cloud.training.hold(p.job, peer.name, held=True)
        return {}

    async def resume(self, peer: Peer, p: JobName) -> object:
        await self._cloud.training.hold(p.job, peer.name, held=False)
        return {}

    # --- lines ---------------------------------------------------------------------------------------------------

    async def logs(self, _peer: Peer, p: JobLogs) -> object:
        """A row for each node that may have run the job: its lines, or why there are none."""
        nodes = self._nodes(p)
        most = max(1, min(p.lines, CHARACTERS // (500 * len(nodes)))) if p.lines else 0
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(node: str, name: str) -> dict[str, Any]:
            async with slots:
                return {"node": node, "name": name, **await self._lines(node, p, most)}

        return await asyncio.gather(*(one(node, name) for node, name in nodes))

    def _nodes(self, p: JobLogs) -> list[tuple[str, str]]:
        """Ids and names of whom to ask. Raises NotFound."""
        cloud = self._cloud
        select = str(cloud.training.job(p.job).created.config.get("select", ""))
        own = (cloud.identity.node, CLOUD)
        if p.node in own:
            return [own]
        if p.node:
            node = cloud.fleet.find(cloud.writer.state, p.node)
            return [(node.node, node.name)]
        crowd = islice(cloud.fleet.crowd(select), NODES - 1)
        records = [found for node in crowd if (found := cloud.fleet.record(node)) is not None]
        return [own, *((device.node, device.name) for device in records)]

    async def _lines(self, node: str, p: JobLogs, most: int) -> dict[str, Any]:
        cloud = self._cloud
        params = {"job": p.job, "lines": most, "after": p.after.get(node, 0)}
        try:
            if node == cloud.identity.node:
                return cloud.setup.tails.told(params)
            found = await cloud.control.down(node, "node.job", params)
        except errors.MsrtError as error:
            return {"lines": [], "next": p.after.get(node, 0), "error": error.text}
        return found if isinstance(found, dict) else {"lines": [], "next": 0, "error": "an answer of another kind"}
