"""The coordinator: opens rounds, applies what comes back, checkpoints, and goes on after any death.

What is decided is in `msrt.learning.rounds`; what is durable is the journal (job created, round advanced, job ended)
and the artifact store (bundle, weights). Each job runs in a task of its own: none can block another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.buffers import Rooms
from msrt.hop import Gather, Peer
from msrt.journal.facts import Entry, JobCreated, JobEnded, JobForgotten, JobHeld
from msrt.journal.state import Job, State
from msrt.journal.writer import Writer
from msrt.protocol.messages import DeviceRecord, RoundClosed, ShardMeta, StreamOpen, TrainProgress, UpdateMeta
from msrt.training.accounting import Accountant
from msrt.training.bundle import open_bundle
from msrt.training.settings import JobConfig
from msrt.training.trainer import Workshop
from msrt.trust.identity import Identity, Purpose
from msrt.trust.tuf import names
from msrt.world.world import World
from msrt_cloud.curves import Curves
from msrt_cloud.fleet import Fleet
from msrt_cloud.job import RunningJob
from msrt_cloud.job_views import report, row
from msrt_cloud.parameters import ParameterJob
from msrt_cloud.privacy import inherited, settle
from msrt_cloud.records import Records
from msrt_cloud.registry import Registry
from msrt_cloud.rollouts import Rollouts
from msrt_cloud.signing import Repository
from msrt_cloud.tally import Tally
from msrt_cloud.triggering import FRESH, Origin, watches

__all__ = ["Means", "Training"]

log = structlog.get_logger()
UPDATE_LIMIT = 1 << 30
AGAIN_S = 1.0
"""Pause before a job goes on after the disk was full."""


@dataclass(frozen=True)
class Means:
    """What the coordinator works with."""

    world: World
    identity: Identity
    writer: Writer
    artifacts: ArtifactStore
    fleet: Fleet
    edges: Callable[[], Sequence[Peer]]
    """Live sessions of edges."""
    signing: Repository
    registry: Registry
    rollouts: Rollouts
    workshop: Callable[[str], Workshop]
    """Job name to the process that makes its first weights and its finished model."""
    tally: Tally
    """What devices found, by model."""
    accountant: Accountant
    """What private jobs spend."""
    grace_s: float
    """How long after a start a round waits for everybody who was there."""


class Training:
    """All jobs of one cloud."""

    def __init__(self, means: Means) -> None:
        self.world, self.identity, self.writer, self.artifacts = (
            means.world,
            means.identity,
            means.writer,
            means.artifacts,
        )
        self.fleet, self.edges, self.workshop, self.tally = means.fleet, means.edges, means.workshop, means.tally
        self.accountant, self.signing = means.accountant, means.signing
        self.registry, self.rollouts = means.registry, means.rollouts
        self._grace_s = means.grace_s
        self._until = 0.0
        """A round that opens before then waits for those who are not back yet."""
        self.rooms = Rooms(2)
        """Where updates lie as they come in: whoever added one gives its room back."""
        self.vectors = Rooms(3)
        """Where sums are made, and new weights: a round's end gives back what the one before it took."""
        self._jobs: dict[str, RunningJob | ParameterJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.curves = Curves(means.world.disk.store("curves"), means.world.offload)
        self.nodes = means.world.disk.store("nodes")
        """What nodes showed, by job: see `Records`."""

    async def resume(self) -> None:
        """Go on with every job that the journal says is not over."""
        self._wait_for_all()
        self._pin()
        for name, job in list(self.writer.state.jobs.items()):
            if job.ended is None:
                self._start(name)

    async def create(self, digest: str, by: str, origin: Origin = FRESH) -> str:
        """Accept a job; its name, made unique. Raises InvalidJob, NotFound, Conflict where `origin` is over."""
        bundle = open_bundle(await self.artifacts.read(digest))
        name = bundle.config.name
        signature = self.identity.sign(digest.encode(), Purpose.BUNDLE)
        before = inherited(self.writer.state, origin.spent or origin.after, bundle.config)
        config = msgspec.to_builtins(await settle(self.accountant, bundle.config, before))
        spent = tuple((part.noise or 0.0, part.rate, part.steps, rounds) for part, rounds in before)

        def decide(state: State) -> list[Entry]:
            origin.check(state, name)
            job = _free(state, name)
            seen = self.tally.of(bundle.config.watched).events
            wall = self.world.wall()
            return [
                JobCreated(
                    job, digest, signature, config, by, wall, origin.cause, origin.after, origin.start, seen, spent
                )
            ]  # fmt: skip

        async with self.signing.turn:  # nobody else takes the name meanwhile
            origin.check(self.writer.state, name)
            job, size = _free(self.writer.state, name), self.artifacts.size(digest) or 0
            await self.signing.publish({names.job(job): (digest, size)})
            (fact,) = await self.writer.decide(decide)
        assert isinstance(fact, JobCreated)
        self._pin()
        self._start(fact.job)
        return fact.job

    def _pin(self) -> None:
        """What jobs ended with, others start from: no job may forget it because it was its own first."""
        jobs = self.writer.state.jobs.values()
        kept = {digest for job in jobs for digest in (job.created.start, job.weights if job.ended else "")}
        self.artifacts.pin(kept - {""}, "jobs")

    def _wait_for_all(self) -> None:
        self._until = self.world.now() + self._grace_s

    def _start(self, name: str) -> None:
        fact = self.writer.state.jobs[name]
        config = msgspec.convert(fact.created.config, JobConfig)
        kind = RunningJob if config.parameter_server is None else ParameterJob
        running = self._jobs[name] = kind(self, fact.created, config, self._until)
        self._tasks[name] = asyncio.get_running_loop().create_task(self._run(name, running))

    async def _run(self, name: str, running: RunningJob | ParameterJob) -> None:
        state, reason = "finished", ""
        try:
            reason = await running.run()
        except errors.DiskFull as error:  # this machine's fault, not the job's: go on from the last checkpoint
            log.warning("job.held", job=name, error=error.text, again_in_s=AGAIN_S)
            running.waiting = error.text
            await asyncio.sleep(AGAIN_S)
            self._wait_for_all()
            self._start(name)
            return
        except errors.MsrtError as error:
            state, reason = "failed", str(error)
            log.warning("job.failed", job=name, error=reason)
        finally:
            await running.close()
        await self._end(name, state, reason)

    async def _end(self, name: str, state: str, reason: str) -> None:
        job = self.writer.state.jobs[name]
        while job.ended is None:
            try:
                await self.writer.append(JobEnded(name, state, reason, self.world.wall()))
                break
            except errors.DiskFull as error:
                log.warning("job.end_not_written", job=name, error=error.text)
                await asyncio.sleep(AGAIN_S)
        self._pin()
        self.rooms.clear()
        self.vectors.clear()
        await self.artifacts.release()
        with contextlib.suppress(errors.DiskFull):  # it goes with the next commit
            await Records(self.nodes, self.world.offload, name).forget()
        self.tell(RoundClosed(name, job.round, (), state))
        log.info("job.ended", job=name, state=state)

    async def stop(self, name: str) -> None:
        """End a job. Raises NotFound, Conflict when it is over."""
        job = self.job(name)
        if job.ended is not None:
            raise errors.Conflict(f"{name} is {job.ended.state} already")
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._end(name, "stopped", "by the operator")

    async def remove(self, name: str) -> None:
        """Forget a job that is over: its curves and what nodes showed at once, its checkpoints after a while. Raises
        NotFound, Conflict while it goes on.
        """
        job = self.job(name)
        if job.ended is None:
            raise errors.Conflict(f"{name} is {job.state}", hint=f"stop it first: msrt train stop {name}")
        async with self.signing.turn:
            await self.signing.publish({}, drop=[names.job(name)])
            await self.writer.append(JobForgotten(name))
        self._pin()
        self._jobs.pop(name, None)
        self._tasks.pop(name, None)
        await self.curves.forget(name)
        log.info("job.removed", job=name)

    async def named(self) -> set[str]:
        """Digests that jobs name, beside the journal: what they work with, and shards that an index names."""
        kept = set[str]().union(*(running.digests for running in self._jobs.values()))
        for job in list(self.writer.state.jobs.values()):
            if job.created.config.get("parameter_server") is not None and job.advanced and job.advanced.memory:
                kept |= set(msgspec.json.decode(await self.artifacts.read(job.advanced.memory), type=list[str]))
        return kept

    async def hold(self, name: str, by: str, *, held: bool) -> None:
        """Let no further round of a job open, or let it go on. Raises NotFound, Conflict where that says nothing."""
        job = self.job(name)
        if job.ended is not None and not watches(job):
            raise errors.Conflict(f"{name} is {job.ended.state} already")
        if job.held is held:
            raise errors.Conflict(f"{name} is {'paused already' if held else 'not paused'}")
        await self.writer.append(JobHeld(name, held, by, self.world.wall()))
        log.info("job.held" if held else "job.let_go_on", job=name, by=by)

    async def close(self) -> None:
        """Stop working; the jobs go on at the next start."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    # --- edges -------------------------------------------------------------------------------------------------

    def tell(self, message: RoundClosed) -> None:
        """Say it to every edge that is here; the others hear it when they join."""
        for peer in self.edges():
            if peer.live:
                peer.send(message)

    def edge_joined(self, peer: Peer) -> None:
        """Say what is open and what is over."""
        for name, job in self.writer.state.jobs.items():
            running = self._jobs.get(name)
            if job.ended is not None:
                peer.send(RoundClosed(name, job.round, (), job.ended.state))
            elif running is not None:
                if job.round or job.held:
                    peer.send(running.closed())
                running.announce([peer])

    def devices_changed(self, devices: Collection[str]) -> None:
        """Something was said of these devices: who is away is not waited for, who changed its edge goes on there."""
        for running in self._jobs.values():
            running.devices_changed(devices)

    def progress(self, peer: Peer, message: TrainProgress) -> None:
        """How far a region is."""
        running = self._jobs.get(message.job)
        if running is not None:
            running.regions[peer.node] = message

    def stream(self, peer: Peer, opened: StreamOpen) -> Gather:
        """An edge sends its sum, or a single. Raises BadUpdate, StreamCancelled for a round that is over."""
        try:
            meta = msgspec.convert(opened.meta, UpdateMeta)
        except msgspec.ValidationError as error:
            raise errors.BadUpdate(f"a malformed update: {error}") from None
        running = self._jobs.get(meta.job)
        if not 0 <= opened.size <= UPDATE_LIMIT:
            raise errors.BadUpdate(f"an update of {opened.size} bytes, the limit is {UPDATE_LIMIT}")
        if running is None or not running.wants(meta):
            raise errors.StreamCancelled(f"round {meta.round} of {meta.job} is not open")
        what = f"the update of {peer.name} for round {meta.round} of {meta.job}"
        return Gather(what, self.world.offload, partial(running.arrived, peer, meta), opened.size, self.rooms)

    def shard_stream(self, peer: Peer, opened: StreamOpen) -> Gather:
        """An edge sends a shard of a parameter server. Raises BadUpdate, StreamCancelled."""
        try:
            meta = msgspec.convert(opened.meta, ShardMeta)
        except msgspec.ValidationError as error:
            raise errors.BadUpdate(f"a malformed shard: {error}") from None
        running, known = self._jobs.get(meta.job), self.writer.state.jobs.get(meta.job)
        if running is None and known is not None and known.ended is None:
            raise errors.Unavailable(f"{meta.job} has not begun yet")
        if not isinstance(running, ParameterJob) or not 0 <= opened.size <= UPDATE_LIMIT:
            raise errors.StreamCancelled(f"no shard of {meta.job} is wanted")
        return running.sink(peer, meta)

    # --- views -------------------------------------------------------------------------------------------------

    def running(self, name: str) -> RunningJob | ParameterJob | None:
        """The job's own part of this process, while it has one."""
        return self._jobs.get(name)

    def job(self, name: str) -> Job:
        """As the journal has it. Raises NotFound."""
        job = self.writer.state.jobs.get(name)
        if job is None:
            raise errors.NotFound(f"no job is named {name!r}", hint="msrt train status")
        return job

    def rows(self, name: str) -> list[dict[str, Any]]:
        """One job or all, newest last. Raises NotFound."""
        if name:
            self.job(name)
        return [row(self, job) for job in ([name] if name else self.writer.state.jobs)]

    def report(self, name: str) -> dict[str, Any]:
        """See `job_views.report`: of all rounds. Raises NotFound."""
        return report(self, name, self.curves.rounds(name))

    def participants(self, select: str) -> list[DeviceRecord]:
        """Living devices that a job's selector names, in a stable order."""
        return [found for node in self.fleet.crowd(select) if (found := self.fleet.record(node)) is not None]


def _free(state: State, name: str) -> str:
    """The name that a new job gets."""
    job, number = name, 1
    while job in state.jobs or job in state.forgotten:
        number += 1
        job = f"{name}-{number}"
    return job
