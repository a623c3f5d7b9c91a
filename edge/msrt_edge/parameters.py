"""Parameter servers on an edge: shards that the journal places here, workers that live here, and the way between.

All follows from the journal, so it goes on, and comes back after a restart, without the cloud: who owns which shard,
which devices are workers, whether a job is paused. A worker talks to its own edge alone, which passes on what is for
the server of another shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Gather, Peer
from msrt.hop.parcel import PUSH, collect, send
from msrt.journal.state import Job
from msrt.learning.parameter_server import events as e
from msrt.protocol.messages import Pulled, Push, ShardsOpen, StreamOpen, TrainProgress, WorkersHere
from msrt.trust.tuf.claims import bundle_claim
from msrt_edge.broadcast import Broadcast
from msrt_edge.hosted import Hosted

if TYPE_CHECKING:
    from msrt_edge.master import Edge

__all__ = ["ParameterServers"]

log = structlog.get_logger()
TICK_S: Final = 0.25
TELL_S: Final = 1.0
REACH_S: Final = 1.0
AGAIN_S: Final = 1.0


class ParameterServers:
    """All jobs of this kind, as far as they touch this edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge, self.world, self.node = edge, edge.world, edge.node
        self.artifacts, self.fetch = edge.artifacts, edge.fetch
        self.store = edge.world.disk.store("parameters")
        self.cloud: Peer | None = None
        self._hosted: dict[str, Hosted] = {}
        self._told: dict[str, tuple[int, int, bool]] = {}
        """Job to what our devices were told: generation, workers, whether it is paused."""
        self._broadcast = Broadcast()
        self._due = asyncio.Event()

    @property
    def serving(self) -> list[str]:
        """Jobs of which shards are here."""
        return sorted(self._hosted)

    # --- the journal ------------------------------------------------------------------------------------------

    def journal_changed(self) -> None:
        """Something of a job may be new."""
        for name, job in self._open_jobs().items():
            assert job.placed is not None
            hosted = self._hosted.get(name)
            if hosted is not None:
                hosted.held = job.held
                hosted.keeping.advanced(job.round)
        self._due.set()

    async def _announce(self, name: str, job: Job) -> None:
        """Our devices hear of a job that may be used, and of what changed."""
        assert job.placed is not None
        said = (job.placed.generation, len(job.placed.workers), job.held)
        if self._told.get(name) != said:
            created = job.created
            await self._edge.trust.vouch(bundle_claim(name, created.bundle, created.signature))
            self._told[name] = said
            self._open(self._edge.device_peers().values(), job)

    def _open_jobs(self) -> dict[str, Job]:
        jobs = self._edge.follower.state.jobs
        return {name: job for name, job in jobs.items() if job.placed is not None and job.ended is None}

    def _open(self, peers: Iterable[Peer], job: Job) -> None:
        """Tell devices that they are workers."""
        placed, created = job.placed, job.created
        assert placed is not None

        def opening(peer: Peer) -> tuple[ShardsOpen, tuple[Buffer, ...]] | None:
            index = placed.workers.get(peer.node)
            if index is None or job.held or created.job not in self._told:
                return None
            return ShardsOpen(
                created.job, placed.generation, created.bundle, created.signature, placed.owners, index,
                len(placed.workers),
            ), ()  # fmt: skip

        self._broadcast.tell(peers, opening)

    async def _reconcile(self) -> None:
        """Have the shards that are ours, and none of a job that is over."""
        open_jobs = self._open_jobs()
        for name in sorted(self._hosted.keys() - open_jobs.keys()):
            await self._hosted.pop(name).keeping.close()
            self._told.pop(name, None)
        for name, job in open_jobs.items():
            assert job.placed is not None
            await self._announce(name, job)
            hosted = self._hosted.get(name)
            if hosted is None and self.node in job.placed.owners:
                hosted = self._hosted[name] = Hosted(self, job)
                hosted.held = job.held
            if hosted is not None and hosted.generation != job.placed.generation:
                await hosted.place(job, self.node)

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: the shards that are to be here, clocks, and who lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._place())
            group.create_task(self._tick())

    async def _place(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._reconcile()
            except errors.MsrtError as error:
                log.warning("shards.not_here", error=errors.words_of(error), again_in_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)
                self._due.set()

    async def _tick(self) -> None:
        due = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now = self.world.now()
            for hosted in list(self._hosted.values()):
                hosted.handle(e.Tick())
                hosted.save_when_due(now)
            if now >= due:
                due = now + TELL_S
                self._tell()

    def _tell(self) -> None:
        """The other servers of each job hear which of its workers live here, the cloud how far its round is."""
        here = self._edge.device_peers()
        for name, job in self._open_jobs().items():
            assert job.placed is not None
            workers = tuple(sorted(job.placed.workers.keys() & here.keys()))
            for owner in dict.fromkeys(job.placed.owners):
                if owner == self.node:
                    self.workers_here(WorkersHere(name, workers))
                elif workers and (peer := self._edge.service.neighbours.at_hand(owner)) is not None:
                    _say(peer, WorkersHere(name, workers))
        for hosted in self._hosted.values():
            progress = hosted.progress()
            if progress is not None and self.cloud is not None and self.cloud.live:
                _say(self.cloud, progress)

    def attach(self, cloud: Peer) -> None:
        """The cloud is here."""
        self.cloud = cloud
        for hosted in self._hosted.values():
            hosted.keeping.attached()

    def detach(self) -> None:
        """The cloud is away; work goes on."""
        self.cloud = None

    def device_joined(self, peer: Peer) -> None:
        """Tell it in which jobs it is a worker."""
        for job in self._open_jobs().values():
            self._open([peer], job)

    def device_left(self, node: str) -> None:
        """Do not wait for it."""
        for hosted in self._hosted.values():
            hosted.handle(e.Left(node))

    # --- messages ---------------------------------------------------------------------------------------------

    def pushed(self, peer: Peer, push: Push, frames: list[Buffer]) -> None:
        """Of a device, or of another edge for its device. Raises Forbidden."""
        if peer.role == "device" and push.worker != peer.node:
            raise errors.Forbidden(f"{peer.name} may push for itself only")
        if push.server != self.node:
            if peer.role == "device":
                self._pass_on(peer, push, frames)
            return
        hosted, job = self._hosted.get(push.job), self._edge.follower.state.jobs.get(push.job)
        known = job is not None and job.placed is not None and push.worker in job.placed.workers
        if hosted is not None and known:
            hosted.received(peer, push, frames)
            return
        over = job is not None and (job.ended is not None or job.held)
        said = "over" if over else "moved"
        answer = Pulled(push.job, push.generation, push.server, push.worker, push.boot, push.clock, said)
        _say(peer, answer)

    def _pass_on(self, peer: Peer, push: Push, frames: list[Buffer]) -> None:
        other = self._edge.service.neighbours.at_hand(push.server)
        if other is not None:
            _parcel(other, push, frames)
        else:
            peer.spawn(self._reach(push, frames))

    async def _reach(self, push: Push, frames: list[Buffer]) -> None:
        try:
            other = await self._edge.service.neighbours.reach(push.server, REACH_S)
        except errors.MsrtError as error:
            log.info("shards.server_out_of_reach", job=push.job, server=push.server, error=errors.words_of(error))
            return
        _parcel(other, push, frames)

    def pulled(self, answer: Pulled, frames: list[Buffer]) -> None:
        """Of another edge, for a device here."""
        peer = self._edge.device_peers().get(answer.worker)
        if peer is not None and peer.live:
            _parcel(peer, answer, frames)

    def workers_here(self, message: WorkersHere) -> None:
        """Whom to count on."""
        hosted = self._hosted.get(message.job)
        if hosted is not None:
            hosted.handle(e.Here(message.workers))

    def push_stream(self, peer: Peer, opened: StreamOpen) -> Gather:
        """A push too large for a message. Raises MalformedFrame, Forbidden."""
        if opened.kind != PUSH:
            raise errors.Forbidden(f"a {peer.role} may not send a stream {opened.kind}")
        return collect(Push, peer, opened, self.pushed)

    def pull_stream(self, peer: Peer, opened: StreamOpen) -> Gather:
        """An answer too large for a message, for a device here. Raises MalformedFrame."""
        return collect(Pulled, peer, opened, lambda _peer, answer, frames: self.pulled(answer, frames))


def _say(peer: Peer, message: Pulled | WorkersHere | TrainProgress) -> None:
    """Losing it is allowed."""
    try:
        peer.send(message)
    except (errors.Disconnected, errors.Overloaded) as error:
        log.debug("shards.word_lost", to=peer.node, error=error.text)


def _parcel(peer: Peer, message: Push | Pulled, frames: list[Buffer]) -> None:
    """The same with a payload."""
    try:
        send(peer, message, frames)
    except (errors.Disconnected, errors.Overloaded) as error:
        log.debug("shards.word_lost", to=peer.node, error=error.text)
