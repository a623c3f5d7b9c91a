"""A parameter server's job as the cloud sees it: who serves which shard, who works, and a checkpoint for each round.

Edges do the work and count it; they need the cloud only when one of them dies. What is decided here is written to the
journal first, and edges act on what the journal says: a cloud that was killed goes on where its journal ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Gather, Peer
from msrt.journal.facts import JobAdvanced, JobCreated, JobPlaced
from msrt.journal.state import Job
from msrt.learning.notes import Judged
from msrt.learning.parameter_server.shard import read_kept
from msrt.learning.parameter_server.shards import place, spans
from msrt.learning.selection import Wanted, select
from msrt.learning.vector import Layout, Vector, peek, save
from msrt.protocol.messages import RoundClosed, RoundNote, ShardMeta, TrainProgress, UpdateMeta
from msrt.training.settings import JobConfig
from msrt.training.task import Node
from msrt_cloud.finishing import finish, first_weights
from msrt_cloud.muster import Muster, muster

if TYPE_CHECKING:
    from msrt_cloud.open_round import OpenRound
    from msrt_cloud.training import Training

__all__ = ["ParameterJob"]

log = structlog.get_logger()
WATCH_S: Final = 0.25
AWAY_S: Final = 5.0
"""A dead edge has that long to come back with its shards before others get them."""
STAYS_S: Final = 10.0
"""An edge that came later has been there for so long before it gets shards of others."""
RETRIES: Final = 5
"""Rounds' deadlines without a step, after which the job fails."""


class ParameterJob:
    """One job. The face that `Training` knows of a `RunningJob`."""

    def __init__(self, training: Training, created: JobCreated, config: JobConfig, until: float) -> None:
        self._t, self._created, self._config, self.name = training, created, config, created.job
        assert config.parameter_server is not None
        self._settings, self._until = config.parameter_server, until
        self.workshop = training.workshop(self.name)
        self.regions: dict[str, TrainProgress] = {}
        """Edge to what it said last."""
        self.waiting = "starting"
        self.live: OpenRound | None = None
        self.counted: Final = "steps" if self._settings.steps else "percent"
        """What `progress` counts."""
        self.bytes_up: Final = 0
        """It has no rounds of everybody."""
        self._layout = Layout(())
        self._shards: dict[int, tuple[ShardMeta, str]] = {}
        """Shard to the newest of it that came, and its digest."""
        self._indexed: set[str] = set()
        """Digests of shards that a checkpoint names, or the one that is being made."""
        self._first = ""
        """Digest of the weights that it begins with."""
        self._came = asyncio.Event()
        self._moved = 0.0
        """When it last got anywhere, and ..."""
        self._at = (0, 0)
        """... where: round, steps of the next one."""
        self._away: dict[str, float] = {}
        self._here: dict[str, float] = {}
        """Living edges, since when."""

    @property
    def _job(self) -> Job:
        return self._t.writer.state.jobs[self.name]

    @property
    def progress(self) -> tuple[int, int]:
        """Steps of the present round, and how many it has."""
        said = [p for p in self.regions.values() if p.round == self._job.round + 1]
        return max(((p.reported, p.expected) for p in said), default=(0, 0))

    @property
    def digests(self) -> set[str]:
        """Artifacts that it works with; the journal may not name them yet."""
        return {self._first, *(digest for _, digest in self._shards.values())} | self._indexed

    @property
    def slowest(self) -> list[str]:
        """Ids of workers for whom others wait."""
        return sorted({node for said in self.regions.values() for node in said.missing})

    def closed(self) -> RoundClosed:
        """What edges hear of the last round."""
        job = self._job
        return RoundClosed(self.name, job.round, (), "paused" if job.held else "running")

    async def close(self) -> None:
        """End the workshop's process."""
        await self.workshop.stop(for_good=True)

    # --- what only rounds of everybody have -------------------------------------------------------------------

    def announce(self, peers: Sequence[Peer]) -> None:
        """Nothing: edges read it in the journal."""

    def wants(self, meta: UpdateMeta) -> bool:
        """No update is."""
        del meta
        return False

    async def arrived(self, _peer: Peer, meta: UpdateMeta, _payload: Buffer) -> None:
        """Never wanted."""
        raise errors.BadUpdate(f"{meta.job} takes pushes, no updates")

    def devices_changed(self, devices: Collection[str]) -> None:
        """Seen at the next look."""

    # --- the job ----------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Until the last round is checkpointed and published; what is missing then. Raises what ends the job."""
        await self.workshop.start(await self._t.artifacts.read(self._created.bundle))
        if self._job.placed is None:
            await self._begin()
        self._layout = peek(await self._t.artifacts.read(self._job.weights))[0]
        self._moved = self._t.world.now()
        while self._job.round < self._config.rounds:
            await self._unheld()
            await self._look()
            await self._checkpoint()
            self._check_moving()
            self._came.clear()
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._came.wait()
            except TimeoutError:
                continue
        return await self._finish()

    async def _begin(self) -> None:
        """First weights, servers and workers."""
        t, config = self._t, self._config
        weights = self._first = await first_weights(t, self._created, self.workshop, self._say)
        due = muster(t.writer.state, self._job, Muster(*config.least_and_why, self._until, config.select))
        while True:
            await self._unheld()
            workers = self._candidates()
            self.waiting = due.missing(t.fleet.heard(), workers, len(workers), t.world.now())
            edges = self._edges()
            if not self.waiting and not edges:
                self.waiting = "waiting for an edge that can serve the model"
            if not self.waiting:
                break
            await asyncio.sleep(WATCH_S)
        size = peek(await t.artifacts.read(weights))[0].size
        count = len(spans(size, self._settings.shards or len(edges)))
        roster = {node: index for index, node in enumerate(workers)}
        wall = t.world.wall()
        owners = place((), edges, count)
        await t.writer.append(JobAdvanced(self.name, 0, weights, {}, (), wall))
        await t.writer.append(JobPlaced(self.name, 1, owners, roster, wall))

    def _say(self, what: str) -> None:
        self.waiting = what

    def _candidates(self) -> list[str]:
        devices = list(self._t.fleet.crowd(self._config.select))
        return select(devices, {}, Wanted(count=self._config.max_nodes), self.name, 0)

    def _edges(self) -> list[str]:
        return sorted(node for node, edge in self._t.fleet.edges.items() if edge.alive)

    async def _unheld(self) -> None:
        """While an operator holds the job nobody works on it, and the processes of all nodes are let go."""
        if not self._job.held:
            return
        self._t.tell(self.closed())
        await self.workshop.stop()
        self.waiting = "paused by the operator"
        while True:
            await asyncio.sleep(WATCH_S)
            if not self._job.held:
                break
        self._t.tell(self.closed())
        self._moved = self._t.world.now()

    # --- who serves, who works --------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Give the shards of an edge that stays away to others, and work to devices that came."""
        placed, now = self._job.placed, self._t.world.now()
        assert placed is not None
        alive = self._edges()
        self._here = {edge: self._here.get(edge, now) for edge in alive}
        for owner in dict.fromkeys(placed.owners):
            if owner in alive:
                self._away.pop(owner, None)
            else:
                self._away.setdefault(owner, now)
        lost = {owner for owner, since in self._away.items() if now - since > AWAY_S and now >= self._until}
        owners = placed.owners
        if lost and alive:
            stay = set(placed.owners) - lost
            owners = place([owner if owner in stay else "" for owner in placed.owners], stay | set(alive), len(owners))
        fresh = [node for node in self._candidates() if node not in placed.workers]
        room = self._config.max_nodes - len(placed.workers)
        workers = placed.workers | {node: len(placed.workers) + at for at, node in enumerate(fresh[:room])}
        if owners == placed.owners and len(workers) == len(placed.workers):
            return
        generation = placed.generation + (owners != placed.owners)
        if owners != placed.owners:
            log.warning("shards.moved", job=self.name, generation=generation, lost=sorted(lost))
            self._forget_owners()
        await self._t.writer.append(JobPlaced(self.name, generation, owners, workers, self._t.world.wall()))

    async def _share(self) -> None:
        """Right after a checkpoint, when a move costs the least: edges that came later take shards of those that have
        more than their part.
        """
        placed, now = self._job.placed, self._t.world.now()
        assert placed is not None
        stay = {edge for edge, since in self._here.items() if now - since > STAYS_S}
        if self._job.round >= self._config.rounds or not set(placed.owners) < stay:
            return
        owners = place(placed.owners, stay, len(placed.owners))
        if owners == placed.owners:
            return
        log.info("shards.shared", job=self.name, generation=placed.generation + 1, edges=len(stay))
        self._forget_owners()
        await self._t.writer.append(
            JobPlaced(self.name, placed.generation + 1, owners, placed.workers, self._t.world.wall())
        )

    def _forget_owners(self) -> None:
        """What they said and sent is of an earlier generation."""
        self._away.clear()
        self._shards.clear()

    def _check_moving(self) -> None:
        """Raises JobFailed when no step has come of it for long."""
        now, limit = self._t.world.now(), RETRIES * self._config.deadline_s
        at = (self._job.round, self.progress[0])
        if at != self._at:
            self._at, self._moved, self.waiting = at, now, ""
        if now - self._moved <= limit or not self._t.fleet.crowd(self._config.select):
            return
        faults = {node: text for said in self.regions.values() for node, text in said.faults.items()}
        why = f"no step was done within {limit:.0f} s"
        if faults:
            text, _ = Counter(faults.values()).most_common(1)[0]
            node = next(node for node, said in sorted(faults.items()) if said == text)
            known = self._t.writer.state.nodes.get(node)
            why = f"{why}; {known.name if known else node} said: {text}"
        raise errors.JobFailed(why)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def sink(self, peer: Peer, meta: ShardMeta) -> Gather:
        """An edge sends a shard. Raises StreamCancelled, BadUpdate."""
        placed, job = self._job.placed, self._job
        if not self._layout.slots:
            raise errors.Unavailable(f"{meta.job} is not read again yet")
        if placed is None or meta.generation != placed.generation or meta.round <= job.round:
            raise errors.StreamCancelled(f"shard {meta.shard} of round {meta.round} of {meta.job} is not wanted")
        if not 0 <= meta.shard < len(placed.owners) or placed.owners[meta.shard] != peer.node:
            raise errors.BadUpdate(f"{peer.name} does not serve shard {meta.shard} of {meta.job}")
        what = f"shard {meta.shard} of {meta.job} at round {meta.round}"
        return Gather(what, self._t.world.offload, partial(self._shard_came, meta))

    async def _shard_came(self, meta: ShardMeta, payload: Buffer) -> None:
        kept, _ = read_kept(payload)
        placed = self._job.placed
        assert placed is not None
        if kept.index != meta.shard or kept.span != spans(self._layout.size, len(placed.owners))[meta.shard]:
            raise errors.BadUpdate(f"shard {meta.shard} of {meta.job} is another range than agreed")
        known = self._shards.get(meta.shard)
        if meta.generation != placed.generation or (known is not None and known[0].round >= meta.round):
            return
        self._shards[meta.shard] = meta, await self._t.artifacts.put_bytes(payload)
        if known is not None and known[1] not in self._indexed:
            await self._drop({known[1]})
        self._came.set()

    async def _checkpoint(self) -> None:
        """Once the shards of a round are all here: weights on disk, then the curves, then the journal."""
        t, job = self._t, self._job
        placed, before = job.placed, job.advanced
        assert placed is not None
        assert before is not None
        if len(self._shards) < len(placed.owners):
            return
        number = min(meta.round for meta, _ in self._shards.values())
        if number <= job.round:
            return
        digests = tuple(self._shards[shard][1] for shard in range(len(placed.owners)))
        self._indexed = set(digests)
        data = await t.world.offload(_assembled, self._layout, [await t.artifacts.read(digest) for digest in digests])
        weights = await t.artifacts.put_bytes(data)
        index = await t.artifacts.put_bytes(msgspec.json.encode(digests))
        notes = _by_round([meta.notes for meta, _ in self._shards.values()])
        for round_ in range(job.round + 1, number + 1):
            await t.curves.add(self.name, round_, self._row(round_, notes.get(round_, []), number))
        last = notes.get(number, [])
        pushed = {worker: samples for note in last for worker, samples in note.samples.items()}
        await t.curves.judge(self.name, {worker: Judged(number, samples) for worker, samples in pushed.items()})
        metrics = last[0].metrics if last else {}
        included = tuple(sorted(pushed))
        older = (before.weights, *before.older)[: self._config.checkpoints - 1]
        fact = JobAdvanced(
            self.name, number, weights, metrics, included, t.world.wall(), older=older, memory=index
        )  # fmt: skip
        await t.writer.append(fact)
        self._moved, self.waiting = t.world.now(), ""
        log.info("round.closed", job=self.name, round=number, nodes=len(included), **metrics)
        await self._forget(before, fact, set(digests))
        await self._share()

    def _row(self, number: int, notes: list[RoundNote], last: int) -> dict[str, object]:
        """A round's line. Metrics are those of the first shard's server: every push comes to each of them."""
        note = notes[0] if notes else RoundNote(number)
        metrics = note.metrics
        return {
            "round": number, "wall": self._t.world.wall(), "loss": metrics.get("loss"),
            "accuracy": metrics.get("accuracy"), "train_loss": metrics.get("train_loss"), "seconds": note.seconds,
            "bytes_up": sum(one.bytes_up for one in notes), "bytes_down": sum(one.bytes_down for one in notes),
            "nodes": len(note.samples), "late": {}, "failed": {}, "absent": 0, "stragglers": [],
            "pushes": int(metrics.get("pushes", 0)), "late_pushes": int(metrics.get("late_pushes", 0)),
            "gap": int(metrics.get("gap", 0)), "waited": note.waited, "checkpoint": number == last,
        }  # fmt: skip

    async def _forget(self, before: JobAdvanced, fact: JobAdvanced, digests: set[str]) -> None:
        """What came before is no longer needed."""
        kept = {fact.weights, *fact.older, fact.memory, *digests}
        gone = {before.weights, *before.older}
        if before.memory:
            gone |= {before.memory, *msgspec.json.decode(await self._t.artifacts.read(before.memory))}
        await self._drop(gone - kept - {digest for _, digest in self._shards.values()})

    async def _drop(self, digests: set[str]) -> None:
        for digest in sorted(digests):
            await self._t.artifacts.drop(digest)

    async def _finish(self) -> str:
        placed = self._job.placed
        assert placed is not None
        data = await self._t.artifacts.read(self._job.weights)
        included = self._job.advanced.included if self._job.advanced else ()
        nodes = [Node(id=node, index=placed.workers.get(node, 0), count=len(placed.workers)) for node in included]
        return await finish(self._t, self.name, self._config, self.workshop, data, nodes, self._say)


def _assembled(layout: Layout, shards: Sequence[Buffer]) -> Buffer:
    """The model of all its shards, in order. Blocking."""
    flat: Vector = np.empty(layout.size, np.float32)
    for data in shards:
        kept, start = read_kept(data)
        flat[kept.span.start : kept.span.stop] = np.frombuffer(data, "<f4", offset=start + kept.state)
    return save(layout, flat)


def _by_round(notes: Sequence[Sequence[RoundNote]]) -> dict[int, list[RoundNote]]:
    """Round to what each server said of it; the first shard's first, and servers of several shards once."""
    found: dict[int, list[RoundNote]] = {}
    for said in notes:
        for note in said:
            row = found.setdefault(note.round, [])
            if note not in row:
                row.append(note)
    return found
