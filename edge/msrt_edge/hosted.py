"""The shards of one parameter server's job on this edge: every push counted once, weights given, snapshots taken.

What is decided is in `ShardServer`; here its actions are done in order, in place for a small model and through
`World.offload` for a large one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer, joined
from msrt.hop import Peer
from msrt.hop.parcel import send
from msrt.journal.state import Job
from msrt.learning.aggregate import check
from msrt.learning.compress import Codec
from msrt.learning.pacing import Pace
from msrt.learning.parameter_server import Mode, spans
from msrt.learning.parameter_server import events as e
from msrt.learning.parameter_server.server import ShardServer, Terms
from msrt.learning.parameter_server.shard import Shard, codec_for, read_kept
from msrt.learning.parameter_server.tally import Tally
from msrt.learning.vector import load
from msrt.protocol.messages import Pulled, Push, RoundNote, TrainProgress
from msrt.training.settings import JobConfig
from msrt_edge.keeping import Keeping

if TYPE_CHECKING:
    from msrt_edge.parameters import ParameterServers

__all__ = ["Hosted"]

log = structlog.get_logger()
Save = Callable[[], dict[int, Buffer]]
LARGE: Final = 1 << 15
"""Elements here, from which numerics would hold the event loop."""
PERCENT: Final = 100
FEW: Final = 16


class Hosted:
    """One job's."""

    def __init__(self, servers: ParameterServers, job: Job) -> None:
        self._all, self._world = servers, servers.world
        self.job = job.created.job
        config = msgspec.convert(job.created.config, JobConfig)
        settings = config.parameter_server
        assert settings is not None
        self._settings = settings
        server = config.server
        if settings.push == "gradient" and server.lr is None and server.optimiser in ("sgd", "momentum"):
            server = msgspec.structs.replace(server, lr=config.train.lr)
        self._server, self._rounds = server, config.rounds
        self._most, self._deadline_s = config.max_samples, config.deadline_s
        self._up, self._down = config.links.device, config.links.down
        self._terms = Terms(
            Mode(settings.mode), settings.staleness, settings.ahead, config.rounds, float(settings.steps),
            settings.epochs, settings.discount, settings.lease_s, config.min_nodes,
        )  # fmt: skip
        self.machine: ShardServer | None = None
        self.generation = 0
        self.held = False
        self.faults: dict[str, str] = {}
        self._shards: dict[int, Shard] = {}
        self._codecs: dict[int, tuple[Codec, Codec]] = {}
        """Shard to the codecs of its pushes and of its weights."""
        self._ways: dict[str, Peer] = {}
        """Worker to who brought its last push."""
        self._queue: deque[e.Action] = deque()
        self._busy = False
        self._payloads: dict[str, dict[int, Buffer]] = {}
        self._keys = 0
        self._began = self._world.now()
        self._up_bytes = self._down_bytes = 0
        self._saved, self._saved_changes = self._world.now(), 0
        self.keeping = Keeping(servers, self.job)

    @property
    def large(self) -> bool:
        """Do its numerics take longer than the event loop may be held?"""
        return sum(shard.span.size for shard in self._shards.values()) > LARGE

    # --- which shards -----------------------------------------------------------------------------------------

    async def place(self, job: Job, me: str) -> None:
        """Have the shards that are ours, and no others. Raises what fetching raises."""
        placed, advanced = job.placed, job.advanced
        assert placed is not None
        assert advanced is not None
        mine = {shard for shard, owner in enumerate(placed.owners) if owner == me}
        for shard in sorted(self._shards.keys() - mine):
            del self._shards[shard]
            if self.machine is not None:
                self.machine.drop(shard)
            await self.keeping.forget(shard)
        fresh = [await self._bring(shard, job) for shard in sorted(mine - self._shards.keys())]
        if self.machine is None:
            progress = max((progress for _, _, progress, _ in fresh), default=float(advanced.round))
            self.machine = ShardServer(self._terms, progress, max((turn for *_, turn in fresh), default=0))
            now = self._world.now()
            self.machine.expect(placed.workers, Pace(now, now + self._deadline_s, self._terms.least))
        for one, applied, _, _ in fresh:
            self._shards[one.index] = one
            self._codecs[one.index] = codec_for(self._up, one.span), codec_for(self._down, one.span)
            self.machine.hold(one.index, applied)
        self.generation = placed.generation
        if self.machine.round > advanced.round and fresh:  # the cloud never got it
            self.handle(e.Again())
        log.info("shards.served", job=self.job, generation=self.generation, shards=sorted(mine))

    async def _bring(self, shard: int, job: Job) -> tuple[Shard, dict[str, int], float, int]:
        """The newest there is: of this edge's own disk, or of the cloud's last checkpoint."""
        placed, advanced = job.placed, job.advanced
        assert placed is not None
        assert advanced is not None
        recipe, found = self._server.recipe, list[Buffer]()
        own = await self.keeping.own(shard)
        if own is not None:
            found.append(own)
        if advanced.memory:
            index = msgspec.json.decode(await self._all.fetch(advanced.memory), type=tuple[str, ...])
            found.append(await self._all.fetch(index[shard]))
        if not found:
            layout, flat = load(await self._all.fetch(advanced.weights))
            span = spans(layout.size, len(placed.owners))[shard]
            whole = Shard(shard, span, flat[span.start : span.stop], recipe)
            return whole, {}, float(advanced.round), 0
        newest = max(found, key=lambda data: read_kept(data)[0].progress)
        one, kept = await self._world.offload(Shard.load, newest, recipe)
        return one, kept.applied, kept.progress, kept.turn

    # --- pushes -----------------------------------------------------------------------------------------------

    def received(self, peer: Peer, push: Push, frames: Sequence[Buffer]) -> None:
        """A worker's push, from itself or through its edge."""
        self._ways[push.worker] = peer
        if self.machine is None or push.generation != self.generation:
            self._answer(push, "moved")
        elif self.held:
            self._answer(push, "over")
        elif push.error:
            self.faults[push.worker] = push.error
            self.handle(e.Left(push.worker))
        elif not push.encoding:
            self._decide(push, {}, "")
        elif self.large:
            peer.spawn(self._check_later(push, frames))
        else:
            payload = frames[0] if len(frames) == 1 else joined(frames)
            self._decide(push, *self._check(push, payload))

    async def _check_later(self, push: Push, frames: Sequence[Buffer]) -> None:
        payload = frames[0] if len(frames) == 1 else await self._world.offload(joined, frames)
        self._decide(push, *await self._world.offload(self._check, push, payload))

    def _check(self, push: Push, payload: Buffer) -> tuple[dict[int, Buffer], str]:
        """The part of each shard, and what is wrong with it, if anything."""
        try:
            pieces = self._split(push, payload)
            for shard, piece in pieces.items():
                check(piece, self._codecs[shard][0])
        except errors.BadUpdate as error:
            return {}, error.text
        return pieces, ""

    def _split(self, push: Push, payload: Buffer) -> dict[int, Buffer]:
        """Raises BadUpdate."""
        view, at, out = memoryview(payload), 0, dict[int, Buffer]()
        for shard in push.shards:
            if shard not in self._codecs:
                raise errors.BadUpdate(f"shard {shard} is not here")
            codec = self._codecs[shard][0]
            codec.named(push.encoding)
            out[shard] = view[at : at + codec.bytes]
            at += codec.bytes
        if at != len(view):
            raise errors.BadUpdate(f"a push of {len(view)} bytes, expected {at}")
        return out

    def _decide(self, push: Push, pieces: dict[int, Buffer], fault: str) -> None:
        if self.machine is None or push.generation != self.generation:
            return
        push = msgspec.structs.replace(push, samples=min(push.samples, self._most), data=min(push.data, self._most))
        key = ""
        if push.encoding:
            self._keys += 1
            key = str(self._keys)
            self._payloads[key] = pieces
            self._up_bytes += sum(map(len, pieces.values()))
            self.faults.pop(push.worker, None)
        if fault:
            log.warning("shards.push_refused", job=self.job, worker=push.worker, why=fault)
            self.faults[push.worker] = fault
        self.handle(e.Arrived(push, key, fault))

    # --- what follows -----------------------------------------------------------------------------------------

    def handle(self, event: e.Event) -> None:
        """Decide, and do what follows."""
        if self.machine is None:
            return
        self._queue.extend(self.machine.handle(event, self._world.now()))
        if self._busy or not self._queue:
            return
        if not self.large:
            while self._queue:
                self._do(self._queue.popleft())
            return
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._drain())
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _drain(self) -> None:
        try:
            while self._queue:
                action = self._queue.popleft()
                if isinstance(action, e.Add | e.Step | e.Apply):
                    await self._world.offload(self._move, action)
                    continue
                if isinstance(action, e.Answer) and action.said == "go":
                    await self._world.offload(self._weights, action.push)
                if isinstance(action, e.Keep | e.Snapshot):
                    self._do(action, await self._world.offload(self._save, action.mark))
                    continue
                self._do(action)
        finally:
            self._busy = False

    def _do(self, action: e.Action, saved: Save | None = None) -> None:
        match action:
            case e.Add() | e.Step() | e.Apply():
                self._move(action)
            case e.Drop(key, why):
                self._payloads.pop(key, None)
                log.info("shards.push_dropped", job=self.job, why=why)
            case e.Answer(push, said, enter, turn, round_):
                self._answer(push, said, enter, turn, round_)
            case e.Keep(mark):
                self.keeping.keep(saved or self._save(mark))
            case e.Snapshot(round_, mark, tally):
                self._snapshot(round_, tally, saved or self._save(mark))

    def _move(self, action: e.Add | e.Step | e.Apply) -> None:
        """Blocking where the shards are large."""
        match action:
            case e.Add(key, shards, weight):
                pieces = self._payloads.pop(key)
                for shard in shards:
                    self._shards[shard].add(pieces[shard], self._codecs[shard][0], weight)
            case e.Step(done):
                for one in self._shards.values():
                    one.step(self._rate(done))
            case e.Apply(key, shards, scale, done):
                pieces = self._payloads.pop(key)
                for shard in shards:
                    self._shards[shard].apply(pieces[shard], self._codecs[shard][0], scale * self._rate(done))

    def _rate(self, done: float) -> float:
        return self._server.rate(min(int(done), self._rounds - 1), self._rounds)

    def _weights(self, push: Push) -> list[Buffer]:
        """Of the shards that are asked for. Blocking where they are large and changed."""
        return [self._shards[shard].pulled(self._codecs[shard][1]) for shard in push.shards if shard in self._shards]

    def _answer(self, push: Push, said: str, enter: int = 0, turn: int = 0, round_: int = 0) -> None:
        peer = self._ways.get(push.worker)
        if peer is None or not peer.live:
            return  # it asks again
        pieces = self._weights(push) if said == "go" else []
        self._down_bytes += sum(map(len, pieces))
        answer = Pulled(
            self.job, push.generation, push.server, push.worker, push.boot, push.clock, said, enter, turn, round_,
            push.shards if pieces else (), self._down if pieces else "",
        )  # fmt: skip
        try:
            send(peer, answer, pieces)
        except (errors.Disconnected, errors.Overloaded) as error:
            log.info("shards.answer_held_back", job=self.job, worker=push.worker, error=error.text)

    def _save(self, mark: e.Mark) -> Save:
        """Copies of the shards as they are now, as bytes later."""
        copies = [shard.copy() for index, shard in self._shards.items() if index in mark.applied]
        return lambda: {one.index: one.save(mark.progress, mark.turn, mark.applied[one.index]) for one in copies}

    def _snapshot(self, round_: int, tally: Tally, saved: Save) -> None:
        now = self._world.now()
        note = RoundNote(
            round_, tally.metrics(), round(now - self._began, 3), self._up_bytes, self._down_bytes, tally.samples,
            tally.waited,
        )  # fmt: skip
        self._began, self._up_bytes, self._down_bytes = now, 0, 0
        self.keeping.snapshot(self.generation, note, saved)

    def save_when_due(self, now: float) -> None:
        """To this edge's own disk, so that its restart costs the pushes of a few seconds at most."""
        if self.machine is not None and now - self._saved >= self._settings.snapshot_s:
            self._saved = now
            changes = sum(shard.changes for shard in self._shards.values())
            if changes != self._saved_changes:
                self._saved_changes = changes
                self.handle(e.Save())

    # --- what others hear -------------------------------------------------------------------------------------

    def progress(self) -> TrainProgress | None:
        """For the cloud: how far the round is, in its steps, or in percent."""
        machine = self.machine
        if machine is None:
            return None
        whole = self._settings.steps or PERCENT
        share = min(max(machine.progress - machine.round, 0.0), 1.0)
        faults = dict(sorted(self.faults.items())[:FEW])
        return TrainProgress(
            self.job, machine.round + 1, int(share * whole), whole, machine.slowest[:FEW], faults
        )  # fmt: skip
