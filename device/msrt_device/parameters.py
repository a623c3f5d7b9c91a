"""A device as a worker of parameter servers: join, pull, compute, push, until the job is over.

One `Worker` for each job. What it says is decided in `msrt.learning.parameter_server.Exchange`; it computes in the
job's own process. While a push and its answer are on their way it computes the next one, where the job allows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer, joined
from msrt.hop import Gather, Peer
from msrt.hop.parcel import collect, send
from msrt.learning.parameter_server import exchange as x
from msrt.learning.parameter_server.shard import codec_for
from msrt.learning.parameter_server.shards import Span, spans
from msrt.protocol.messages import Pulled, Push, RoundClosed, ShardsOpen, StreamOpen
from msrt.training.settings import JobConfig, ParameterServer
from msrt.training.task import Node
from msrt.training.trainer import Step, Trainer
from msrt.trust.tuf.claims import Vouch, bundle_claim
from msrt.world.world import World

__all__ = ["Workers"]

log = structlog.get_logger()
TICK_S: Final = 0.25
AGAIN_S: Final = 1.0
"""Pause before a worker whose process failed begins again; doubled each time in a row, up to AGAIN_MAX_S."""
AGAIN_MAX_S: Final = 30.0
SLOW: Final = 1 << 20
"""Bytes a second that a link carries at least: what is still on its way is not asked for again."""
LARGE: Final = 1 << 16
"""Elements whose decoding would hold the event loop."""


class Workers:
    """All jobs in which this device is a worker."""

    def __init__(
        self, world: World, node: Node, vouch: Vouch, *, trainer: Callable[[str], Trainer],
        artifacts: ArtifactStore, fetch: Fetch,
    ) -> None:  # fmt: skip
        self.world, self.node, self.vouch = world, node, vouch
        self.trainer, self.artifacts, self.fetch = trainer, artifacts, fetch
        self.boot = world.random.getrandbits(53)
        self.peer: Peer | None = None
        self.paused = False
        self._jobs: dict[str, Worker] = {}
        self._ending: dict[str, Worker] = {}

    @property
    def working(self) -> bool:
        """There is something to compute."""
        return bool(self._jobs)

    def attach(self, peer: Peer) -> None:
        """An edge is here."""
        self.peer = peer

    def detach(self) -> None:
        """The edge is away; what is computed waits for another."""
        self.peer = None

    def opened(self, message: ShardsOpen) -> None:
        """Work, or other owners of the shards."""
        worker = self._jobs.get(message.job)
        if worker is None:
            worker = self._jobs[message.job] = Worker(self, message)
            worker.begin(self._ending.get(message.job), self._over)
        else:
            worker.opened(message)

    def closed(self, message: RoundClosed) -> Worker | None:
        """A job is paused or over. Its worker, while that ends."""
        if message.state != "running" and (worker := self._jobs.pop(message.job, None)) is not None:
            self._ending[message.job] = worker
            worker.stop()
        return self._ending.get(message.job)

    def _over(self, worker: Worker) -> None:
        for table in (self._jobs, self._ending):
            if table.get(worker.job) is worker:
                del table[worker.job]

    def pulled(self, message: Pulled, frames: list[Buffer]) -> None:
        """A server's answer."""
        worker = self._jobs.get(message.job)
        if worker is not None and message.worker == self.node.id:
            worker.pulled(message, frames)

    def stream(self, peer: Peer, opened: StreamOpen) -> Gather:
        """One too large for a message. Raises MalformedFrame."""
        return collect(Pulled, peer, opened, lambda _peer, message, frames: self.pulled(message, frames))

    def pause(self, *, paused: bool) -> None:
        """Serving comes first."""
        if paused != self.paused:
            self.paused = paused
            for worker in self._jobs.values():
                worker.pause()

    async def stop(self) -> None:
        """End every process."""
        workers = [*self._jobs.values(), *self._ending.values()]
        for worker in workers:
            worker.stop()
        await asyncio.gather(*(worker.ended() for worker in workers))


class _Over(Exception):
    """The servers have nothing more to do for this job."""


class _Plan:
    """How the model is cut and travels, and the rooms that are shared with the job's process."""

    def __init__(self, trainer: Trainer, config: JobConfig, settings: ParameterServer, count: int) -> None:
        self.trainer, self.settings, self.size = trainer, settings, trainer.size
        self.spans: tuple[Span, ...] = spans(self.size, count)
        self.encoding, self.within = config.links.device, config.deadline_s
        self.down = [codec_for(config.links.down, span) for span in self.spans]
        self._up = [codec_for(self.encoding, span).bytes for span in self.spans]
        self.travels = sum(self._up) + sum(codec.bytes for codec in self.down)
        """Bytes of a clock, both ways."""
        self.read = 0
        """The room whose weights are whole; the other one takes those that come."""

    def pieces(self, number: int) -> list[Buffer]:
        """The payload of each shard in the push of that number."""
        room, out, at = self.trainer.room(f"push-{number % 2}", sum(self._up)), list[Buffer](), 0
        for size in self._up:
            out.append(room[at : at + size])
            at += size
        return out

    def take(self, message: Pulled, frames: list[Buffer]) -> None:
        """Decode weights into the room for them. Raises BadUpdate. Blocking where they are large."""
        whole = memoryview(frames[0] if len(frames) == 1 else joined(frames))
        room = np.frombuffer(self.trainer.room(f"weights-{1 - self.read}", 4 * self.size), np.float32)
        at = 0
        for shard in message.shards:
            span, codec = self.spans[shard], self.down[shard]
            codec.named(message.encoding)
            piece = whole[at : at + codec.bytes]
            codec.fits(piece)
            room[span.start : span.stop] = 0.0
            codec.add(piece, 1.0, room[span.start : span.stop])
            at += codec.bytes


class Worker:
    """One job on this device."""

    def __init__(self, workers: Workers, message: ShardsOpen) -> None:
        self._all, self._message, self.job = workers, message, message.job
        self._world = workers.world
        self._exchange = x.Exchange(message.job, workers.node.id, workers.boot)
        self._exchange.open(message.generation, message.owners, self._world.now())
        self._trainer: Trainer | None = None
        self._plan: _Plan | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[x.Ready] | None = None
        self._pieces: list[Buffer] = []
        """Of the push that is on its way, one for each shard."""
        self._judged = -1
        """The last round whose first weights were judged."""

    # --- life ----------------------------------------------------------------------------------------------------

    def begin(self, after: Worker | None, over: Callable[[Worker], None]) -> None:
        """Start working once an earlier one of the job has ended; `over` is called at the end."""

        def ended(task: asyncio.Task[None]) -> None:
            over(self)
            if not task.cancelled():
                task.result()

        self._task = asyncio.get_running_loop().create_task(self._run(after))
        self._task.add_done_callback(ended)

    def stop(self) -> None:
        """The job is paused or over, or the device ends."""
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait for its end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def pause(self) -> None:
        """As the device says."""
        if self._trainer is not None:
            (self._trainer.pause if self._all.paused else self._trainer.resume)()

    async def _run(self, after: Worker | None) -> None:
        if after is not None:
            await after.ended()
        again = AGAIN_S
        ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            while True:
                began = self._world.now()
                try:
                    await self._train()
                except _Over:
                    return
                except errors.MsrtError as error:
                    log.warning("worker.failed", job=self.job, error=errors.words_of(error))
                    self._complain(error)
                await self._drop_trainer()
                again = AGAIN_S if self._world.now() - began > AGAIN_MAX_S else min(2 * again, AGAIN_MAX_S)
                await asyncio.sleep(again)
        finally:
            ticker.cancel()
            await self._drop_trainer()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._perform(self._exchange.tick(self._world.now()), [])

    async def _drop_trainer(self) -> None:
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            await trainer.stop()

    async def _started(self) -> tuple[Trainer, JobConfig]:
        """The job's process. Raises what is wrong with the job."""
        workers, message = self._all, self._message
        await workers.vouch(bundle_claim(message.job, message.bundle, message.signature))
        self._trainer = trainer = workers.trainer(self.job)
        config = await trainer.start(await workers.artifacts.get(message.bundle, workers.fetch))
        if workers.paused:
            trainer.pause()
        return trainer, config

    # --- the loop --------------------------------------------------------------------------------------------------

    async def _train(self) -> None:
        """Until the job is over (raises _Over) or something of it fails."""
        trainer, config = await self._started()
        settings = config.parameter_server
        if settings is None:
            raise errors.InvalidJob("the job has no [parameter_server]")
        self._plan = plan = _Plan(trainer, config, settings, len(self._message.owners))
        self._judged = -1
        self._exchange.again_s = x.AGAIN_S + plan.travels / SLOW
        ready = await self._go(-1, None, [])
        clock, number = ready.clock, 0
        under_way: asyncio.Task[x.Ready] | None = None
        try:
            while True:
                push = await self._compute(trainer, plan, clock, ready.round, number)
                if under_way is not None:
                    ready = await under_way
                under_way = asyncio.get_running_loop().create_task(self._go(clock, push, plan.pieces(number)))
                if not settings.ahead:
                    ready = await under_way
                    under_way = None
                clock, number = max(clock + 1, ready.clock), number + 1
        finally:
            if under_way is not None:
                under_way.cancel()

    async def _compute(self, trainer: Trainer, plan: _Plan, clock: int, round_: int, number: int) -> Push:
        """One clock, on the weights that came last."""
        message, own = self._message, self._all.node
        node = Node(own.id, own.labels, message.index, message.count, own.data)
        judge, self._judged = round_ != self._judged, round_
        rooms = f"weights-{plan.read}", f"push-{number % 2}"
        plan.pieces(number)
        done = await trainer.step(Step(node, clock, *rooms, plan.spans, plan.encoding, judge), plan.within)
        return Push(
            self.job, 0, "", "", 0, encoding=plan.encoding, samples=done.samples, data=done.data, metrics=done.metrics
        )  # fmt: skip

    # --- the exchange ------------------------------------------------------------------------------------------------

    async def _go(self, clock: int, push: Push | None, pieces: list[Buffer]) -> x.Ready:
        """Push, and wait for the weights to go on with. Raises _Over."""
        assert self._plan is not None
        self._pieces = pieces
        self._ready = asyncio.get_running_loop().create_future()
        self._perform(self._exchange.begin(clock, self._world.now(), payload=push), [])
        ready = await self._ready
        self._plan.read = 1 - self._plan.read
        return ready

    def opened(self, message: ShardsOpen) -> None:
        """Other owners, or other workers."""
        if message.generation >= self._message.generation:
            self._message = message
            self._perform(self._exchange.open(message.generation, message.owners, self._world.now()), [])

    def pulled(self, message: Pulled, frames: list[Buffer]) -> None:
        """A server's answer."""
        actions = self._exchange.pulled(message, self._world.now())
        if frames and self._plan is not None and self._plan.size > LARGE:
            task = asyncio.get_running_loop().create_task(self._take(actions, frames))
            task.add_done_callback(lambda done: done.cancelled() or done.result())
        else:
            self._perform(actions, frames)

    async def _take(self, actions: list[x.Action], frames: list[Buffer]) -> None:
        await self._world.offload(self._decode, actions, frames)
        self._perform([action for action in actions if not isinstance(action, x.Take)], [])

    def _decode(self, actions: list[x.Action], frames: list[Buffer]) -> None:
        for action in actions:
            if isinstance(action, x.Take) and self._plan is not None:
                self._plan.take(action.pulled, frames)

    def _perform(self, actions: list[x.Action], frames: list[Buffer]) -> None:
        for action in actions:
            match action:
                case x.Send(push, payload):
                    self._send(push, [self._pieces[shard] for shard in push.shards] if payload else [])
                case x.Take():
                    self._decode([action], frames)
                case x.Ready():
                    if self._ready is not None and not self._ready.done():
                        self._ready.set_result(action)
                case x.Over():
                    if self._ready is not None and not self._ready.done():
                        self._ready.set_exception(_Over())

    def _send(self, push: Push, pieces: list[Buffer]) -> None:
        """Through our own edge; what cannot go now is said again later."""
        peer = self._all.peer
        if peer is not None and peer.live:
            try:
                send(peer, push, pieces)
            except (errors.Disconnected, errors.Overloaded) as error:
                log.info("worker.push_held_back", job=self.job, error=error.text)

    def _complain(self, error: errors.MsrtError) -> None:
        """Nobody shall wait for us."""
        message, text = self._message, f"{error.code}: {error.text}"[:500]
        for owner in dict.fromkeys(message.owners):
            self._send(Push(self.job, message.generation, owner, self._all.node.id, self._all.boot, error=text), [])
