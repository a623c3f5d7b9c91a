"""A region's part in training: pass rounds down, add up what comes, send one update up, forget when it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer, Rooms
from msrt.hop import Peer
from msrt.learning import events as e
from msrt.learning.aggregate import check
from msrt.learning.compress import open_codec
from msrt.learning.pacing import Durations, Pace, allowance, patient
from msrt.learning.rounds import RegionRound, Stretch
from msrt.learning.rules import Robust
from msrt.learning.secure_aggregation.masked import MaskedSum
from msrt.learning.vector import Vector, peek
from msrt.protocol.messages import RoundClosed, RoundOpen, StreamOpen, UpdateMeta
from msrt.training.spool import Spool
from msrt.training.weights import AtHand, bring, carries
from msrt.world.world import World, by_size, undisturbed
from msrt_edge.broadcast import Broadcast, Words
from msrt_edge.feedback import Feedbacks
from msrt_edge.region import TICK_S, Model, OpenRound, guard_of, terms_of
from msrt_edge.secure import Exchange, Said, named
from msrt_edge.updates import UpdateSink, Upward, announced, fault_of_size, is_anew, is_welcome, told_to

__all__ = ["RegionTraining"]

log = structlog.get_logger()
MARGIN: Final = 0.8
PATIENCE: Final = 2.0
GRACE_S: Final = 0.5
"""A region seals earlier than the cloud stops waiting, or its sum would come too late (see learning.rounds.Pace)."""
MOVED_S: Final = 5.0
"""A device that came from another edge may have to send again for so long: the cloud says whether it takes part."""
SETTLE_S: Final = 3.0
"""After its start an edge waits so long for its devices before it puts them on a ring for masks."""


class RegionTraining:
    """All jobs of one edge. `me` is this edge's node/boot; `devices` are the live device peers by node id."""

    def __init__(
        self,
        world: World,
        me: str,
        devices: Callable[[], dict[str, Peer]],
        artifacts: ArtifactStore,
        fetch: Fetch,
        streams: int,
        cloud_key: bytes,
    ) -> None:
        self._world, self._me, self._devices = world, me, devices
        self._artifacts, self._fetch, self._cloud_key = artifacts, fetch, cloud_key
        self._open: dict[str, OpenRound] = {}
        self._closed: dict[str, RoundClosed] = {}
        self._models: dict[str, Model] = {}
        self._feedback = Feedbacks(world, me)
        self._upward, self._broadcast = Upward(world), Broadcast()
        self._slots = asyncio.Semaphore(streams)
        self._rooms, self._vectors = Rooms(streams), Rooms(1)
        self._at_hand = AtHand()
        self._locks: dict[str, asyncio.Lock] = {}
        self._came: dict[str, float] = {}
        """When a device joined."""
        self._keys = 0
        self._tries, self._started = 0, world.now()
        """Rounds opened, tries of the same one among them."""

    @property
    def progress(self) -> dict[str, tuple[int, int, int]]:
        """Job to (round, reported, expected)."""
        return {job: (o.message.round, o.round.reported, len(o.round.expected)) for job, o in self._open.items()}

    # --- rounds --------------------------------------------------------------------------------------------------

    async def opened(self, message: RoundOpen, frames: Sequence[Buffer] = ()) -> None:
        """The cloud opened a round, or says so again after it was away. `frames`: what of its weights came along."""
        lock = self._locks.setdefault(message.job, asyncio.Lock())
        async with lock:
            known = self._open.get(message.job)
            if known is None or known.message.round != message.round or is_anew(known.message, message):
                if known is not None:
                    await self._perform(known, known.round.handle(e.Closed(), self._world.now()))
                await self._begin(message, frames)
                return
        await self._again(known, message)

    async def _again(self, known: OpenRound, message: RoundOpen) -> None:
        """The cloud was away, or speaks of devices that came here meanwhile."""
        known.deadline = self._world.now() + message.deadline_s
        fresh = message.participants.keys() - known.message.participants.keys()
        everyone = known.message.participants | message.participants
        known.message = msgspec.structs.replace(known.message, participants=everyone)
        here = self._devices()
        for node in sorted(fresh & here.keys()):
            known.joined(node, self._world.now())
        self._announce(known, [here[node] for node in message.participants if node in here])
        if len(fresh) < len(message.participants):  # said again: the cloud may have lost what it had
            known.delivered.clear()
        self._upward.send(known)

    async def _begin(self, message: RoundOpen, frames: Sequence[Buffer]) -> None:
        known, weights = self._models.get(message.job), self._at_hand.find(message, frames)
        if known is not None and message.plan.steps == 1 and (frames or message.chain):  # they are rarely asked for
            if not frames:
                await self._artifacts.ensure(message.chain[-1].delta, self._fetch, sync=False, reuse=True)
        elif weights is None:
            await bring(self._world, self._artifacts, self._fetch, message, self._rooms)
        closed = self._closed.get(message.job)
        if closed is not None and (closed.state != "running" or closed.round >= message.round):
            return  # meanwhile
        stretch = None
        if known is None or message.plan.steps > 1:
            weights = weights or await self._artifacts.read(message.weights)
            guard = await self._world.offload(guard_of, message.plan, weights)
            known = self._models.setdefault(
                message.job, Model(peek(weights)[0], guard, Durations(message.plan.deviations))
            )
            stretch = Stretch(weights) if message.plan.steps > 1 else None
        self._open_up(message, known, message.deadline_s, stretch, tuple(frames))
        await self._artifacts.drop(*known.outdated(message), reuse=True)

    def _open_up(
        self, message: RoundOpen, model: Model, left: float, stretch: Stretch | None, carried: tuple[Buffer, ...]
    ) -> None:
        """A round, or the next of this region's own; `left` seconds of it remain."""
        job, now, here = message.job, self._world.now(), self._devices()
        mine = [node for node in message.participants if node in here]
        share = MARGIN / (message.plan.steps - message.plan.step)
        usual, window = model.durations.usual, left * share
        if message.plan.partial:
            plan = msgspec.structs.replace(message.plan, work_s=allowance(window, usual))
            message = msgspec.structs.replace(message, plan=plan)
        least = window if message.plan.partial and usual is None else patient(message.plan.work_s)
        quorum = max(1, int(message.plan.quorum * len(mine)))
        pace = Pace(now, now + window, quorum, PATIENCE, GRACE_S, usual, least)
        size = model.layout.size
        self._tries += 1
        message = named(message, self._me, self._tries)
        one = RegionRound(job, message.round, size, self._me, mine, pace, model.guard, terms_of(message))
        spool = Spool(self._world, open_codec(message.compression, model.layout).bytes)
        exchange = self._exchange(message, model, mine, left / (message.plan.steps - message.plan.step))
        model.ask(message)
        opened = OpenRound(
            message, now, now + left, one, model, spool, stretch, exchange, carried, self._vectors.take(4 * size or 1)
        )  # fmt: skip
        if job in self._open:
            self._open[job].spool.close()
        self._open[job] = opened
        log.info("round.opened", job=job, round=message.round, step=message.plan.step, devices=len(mine))
        self._announce(opened, here.values())

    def _exchange(self, message: RoundOpen, model: Model, mine: list[str], left: float) -> Exchange | None:
        """Of keys, where updates are masked."""
        plan = message.plan.secure
        if plan is None:
            return None
        return Exchange(
            self._world, self._cloud_key, message, model.layout, expected=mine, left=left, devices=self._devices,
            settled=self._started + SETTLE_S, exclude=partial(self._exclude, message.job, plan.session),
        )  # fmt: skip

    async def _exclude(self, job: str, session: str, node: str, reason: str) -> None:
        """No update of this device can be in the region's sum: do not wait for it, and say so upwards."""
        opened = self._open.get(job)
        plan = opened.message.plan.secure if opened is not None else None
        if opened is None or plan is None or plan.session != session:
            return
        message = opened.message
        meta = UpdateMeta(job, message.round, {node: 1}, self._me, "", 0, error=reason, step=message.plan.step)
        await self._perform(opened, opened.round.handle(e.Arrived(f"{node}#out", meta), self._world.now()))

    def secure_said(self, peer: Peer, message: Said) -> None:
        """A device's word in an exchange of keys."""
        opened = self._open.get(message.job)
        if opened is not None and opened.exchange is not None and peer.node in opened.message.participants:
            opened.exchange.said(peer.node, message)

    def _announce(self, opened: OpenRound, peers: Iterable[Peer]) -> None:
        def told(peer: Peer) -> tuple[RoundOpen, tuple[Buffer, ...]] | None:
            index = opened.message.participants.get(peer.node)
            if index is None or self._open.get(opened.message.job) is not opened:
                return None
            left = max(0.1, opened.deadline - self._world.now())
            return msgspec.structs.replace(
                opened.message, deadline_s=left, participants={peer.node: index}
            ), opened.carried

        self._broadcast.tell(peers, told)

    async def closed(self, message: RoundClosed, peers: Iterable[Peer]) -> None:
        """The cloud checkpointed the round, or gave it up."""
        self._closed[message.job] = message
        opened = self._open.get(message.job)
        ended = message.state not in ("running", "paused")
        if opened is not None and (ended or opened.message.round <= message.round):
            del self._open[message.job]
            await self._perform(opened, opened.round.handle(e.Closed(), self._world.now()))
        if ended:
            for table in (self._models, self._locks):
                table.pop(message.job, None)
            self._at_hand.forget(message.job)
            await self._feedback.forget(message.job)
            self._rooms.clear()
            self._vectors.clear()
            await self._artifacts.release()
        self._broadcast.tell(peers, _ending(message))

    def attach(self, cloud: Peer) -> None:
        """The cloud is here; it says again which rounds are open."""
        self._upward.cloud = cloud

    def detach(self) -> None:
        """The cloud is away; collecting goes on."""
        self._upward.cloud = None

    def device_joined(self, peer: Peer) -> None:
        """Tell it what is open, and what is over."""
        self._came[peer.node] = self._world.now()
        for opened in self._open.values():
            if peer.node in opened.message.participants:
                self._announce(opened, [peer])
                opened.joined(peer.node, self._world.now())
        for message in self._closed.values():
            self._broadcast.tell([peer], _ending(message))

    async def device_left(self, node: str) -> None:
        """Do not wait for it longer than the quorum takes."""
        self._came.pop(node, None)
        for opened in list(self._open.values()):
            if opened.exchange is not None:
                opened.exchange.left(node)
            await self._perform(opened, opened.round.handle(e.Left(node), self._world.now()))

    async def run(self) -> None:
        """The rounds' clocks, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._world.now()
            for opened in list(self._open.values()):
                opened.say_progress(self._upward.cloud, self._world.now())
                if opened.exchange is not None:
                    opened.exchange.tick(now)
                wake = opened.round.wake
                if wake is not None and now >= wake:
                    await self._perform(opened, opened.round.handle(e.Tick(), now))

    # --- updates -------------------------------------------------------------------------------------------------

    def stream(self, peer: Peer, opened: StreamOpen) -> UpdateSink:
        """A device wants to send an update. Raises BadUpdate for a malformed or over-sized one."""
        meta = announced(peer, opened)
        current = self._open.get(meta.job)
        closed = self._closed.get(meta.job)
        if current is None or not is_welcome(meta, current.message):
            if closed is not None and meta.round <= closed.round and not 0 < closed.since <= meta.round:
                peer.send(told_to(closed, peer.node))
                raise errors.StreamCancelled(f"round {meta.round} of {meta.job} is over")
            raise errors.Unavailable(f"round {meta.round} of {meta.job} is not open here yet")
        self._check_part(peer, meta, current)
        if current.exchange is not None:
            current.exchange.admit(peer.node, meta)
        if fault := fault_of_size(opened.size, current.codec):  # before it is in memory; it counts as refused
            peer.spawn(self.arrived(peer, msgspec.structs.replace(meta, error=fault), b""))
            raise errors.BadUpdate(fault)
        what = f"the update of {peer.name} for round {meta.round} of {meta.job}"
        use = partial(self.arrived, peer, meta)
        return UpdateSink(self._slots, what, self._world.offload, use, opened.size, self._rooms)

    def _check_part(self, peer: Peer, meta: UpdateMeta, current: OpenRound) -> None:
        """Only who was asked is added: one stranger in it, and the cloud refuses a region's whole sum."""
        message = current.message
        if peer.node in message.participants or peer.node in current.model.asked.get(meta.round, ()):
            return
        said = f"{peer.name} does not take part in round {message.round} of {message.job}"
        since = self._came.get(peer.node)
        if self._upward.cloud is None or (since is not None and self._world.now() - since < MOVED_S):
            raise errors.Unavailable(f"{said}, as far as is known here")
        log.warning("round.stranger_refused", device=peer.name, job=message.job, round=message.round)
        raise errors.BadUpdate(said)

    async def arrived(self, peer: Peer, meta: UpdateMeta, payload: Buffer) -> None:
        """A whole update. Raises BadUpdate to tell its sender."""
        opened = self._open.get(meta.job)
        if opened is None or not is_welcome(meta, opened.message):
            return
        if meta.round == opened.message.round:
            opened.model.durations.add(self._world.now() - opened.began, meta.metrics.get("work", 1.0))
        norm, fault = 0.0, meta.error
        if not fault:
            try:
                opened.codec.named(meta.encoding)
                norm = await by_size(self._world.offload, len(payload), check, payload, opened.codec)
            except errors.BadUpdate as error:
                fault = error.text
        self._keys += 1
        key = f"{peer.node}#{self._keys}"
        if not fault and opened.round.waits(meta):
            room, payload = payload, await opened.spool.keep(key, payload)
            if payload is not room:
                self._rooms.give(room)
        opened.payloads[key] = (meta, payload)
        actions = opened.round.handle(e.Arrived(key, meta, norm, fault), self._world.now())
        await self._perform(opened, actions)
        opened.say_progress(self._upward.cloud, self._world.now())
        refused = [a for a in actions if isinstance(a, e.Refuse)]
        if refused and not meta.error:
            raise errors.BadUpdate(refused[0].error)

    async def _perform(self, opened: OpenRound, actions: list[e.RoundAction]) -> None:
        for action in actions:
            match action:
                case e.Add(key, weight, scale):
                    _, payload = opened.payloads.pop(key)
                    await opened.undisturbed(self._add(opened, payload, weight, scale))
                case e.Forward(key):
                    opened.outbox[key] = opened.payloads.pop(key)
                case e.Drop(key, _) | e.Refuse(key, _, _):
                    opened.let_go(key)
                    if isinstance(action, e.Refuse):
                        log.warning(
                            "round.update_refused", job=opened.message.job, nodes=action.nodes, why=action.error
                        )
                case e.Tell(node, error):
                    message = opened.message
                    meta = UpdateMeta(message.job, message.round, {node: 1}, self._me, "fp32", 0, error=error)
                    opened.outbox[f"tell/{node}"] = (meta, b"")
                case e.SendSum(meta):
                    await self._seal(opened, meta)
                case e.Forget():
                    opened.close()
                    await undisturbed(self._recycle(opened))
        if opened.outbox:
            self._upward.send(opened)

    async def _add(self, opened: OpenRound, payload: Buffer, weight: float, scale: float) -> None:
        await opened.add(self._world.offload, payload, weight, scale)
        self._rooms.give(payload)

    async def _seal(self, opened: OpenRound, meta: UpdateMeta) -> None:
        """The region's mean: where updates are masked it takes their senders' help, and nobody waits for that here."""
        if isinstance(opened.sum, Robust):  # it takes the memory of several updates, and no more of them come
            self._rooms.clear()
        if not isinstance(opened.sum, MaskedSum):
            await self._go_on(opened, meta, await undisturbed(opened.mean(self._world.offload)))
        elif opened.exchange is not None:
            task = asyncio.get_running_loop().create_task(self._unmask(opened, opened.exchange, meta))
            task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _recycle(self, opened: OpenRound) -> None:
        """The room of its sum is the next round's, once no thread adds to it."""
        async with opened.turn:
            self._vectors.give(opened.room or b"")

    async def _unmask(self, opened: OpenRound, exchange: Exchange, meta: UpdateMeta) -> None:
        try:
            mean, meta = await exchange.mean(meta, opened.turn)
        except errors.MsrtError as error:
            await self._perform(opened, opened.round.handle(e.Lost(error.text), self._world.now()))
            return
        if self._open.get(meta.job) is opened:
            await self._go_on(opened, meta, mean)
            self._upward.send(opened)

    async def _go_on(self, opened: OpenRound, meta: UpdateMeta, mean: Vector) -> None:
        """The region's next own round begins with the mean of this one, or it goes up."""
        stretch = opened.stretch
        if stretch is None:
            await self._to_cloud(opened, meta, mean)
            return
        await self._world.offload(stretch.step, meta, mean)
        if opened.message.plan.step + 1 == opened.message.plan.steps:
            await self._to_cloud(opened, stretch.meta(), await self._world.offload(stretch.whole))
        elif self._open.get(opened.message.job) is opened:
            weights, carried = await self._artifacts.put_bytes(stretch.weights), carries(stretch.weights)
            plan = msgspec.structs.replace(opened.message.plan, step=opened.message.plan.step + 1)
            message = msgspec.structs.replace(opened.message, weights=weights, chain=(), plan=plan)
            self._open_up(message, opened.model, opened.deadline - self._world.now(), stretch, carried)

    async def _to_cloud(self, opened: OpenRound, meta: UpdateMeta, mean: Vector) -> None:
        """Compressed for the way up."""
        job, codec = opened.message.job, opened.upward
        payload = await self._feedback.encode(job, meta.round, codec, mean)
        opened.outbox["sum"] = (msgspec.structs.replace(meta, encoding=codec.name), payload)
        log.info("round.sum_ready", job=job, round=meta.round, nodes=len(meta.nodes))


def _ending(message: RoundClosed) -> Words:
    included = frozenset(message.included)
    return lambda peer: (told_to(message, peer.node, included=included), ())
