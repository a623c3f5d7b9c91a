"""A device's part in training: fetch, train on its own data, keep the update until it is counted, send it up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore, Fetch
from msrt.buffers import Buffer, Rooms
from msrt.hop import Peer
from msrt.learning.pacing import left_to_work
from msrt.learning.secure_aggregation import Me
from msrt.learning.secure_aggregation.client import Said as Heard
from msrt.protocol import wire
from msrt.protocol.messages import PrivatePlan, RoundClosed, RoundOpen, UpdateMeta
from msrt.training.pipe import Asked, Trained
from msrt.training.task import Node
from msrt.training.trainer import Trainer
from msrt.training.weights import AtHand, bring
from msrt.trust.tuf.claims import Vouch, bundle_claim
from msrt.world.world import Store, World
from msrt_device.kept import Kept, counts, key_of, late, length_of, over
from msrt_device.secure import PLAIN, Masking
from msrt_device.updates import Updates

__all__ = ["Training"]

log = structlog.get_logger()
T = TypeVar("T")
RESEND_S: Final = 2.0
LATER_S: Final = 0.5
COUNTED: Final = "counted/"
PASSING: Final = (
    errors.DiskFull, errors.Disconnected, errors.DeadlineExceeded, errors.StreamCancelled, errors.Unavailable,
)  # fmt: skip
"""What goes by while a round lasts."""


class Training:
    """All jobs of one device, one round at a time. `fetch` brings an artifact through the edge."""

    def __init__(
        self,
        world: World,
        store: Store,
        node: Node,
        vouch: Vouch,
        *,
        trainer: Callable[[str], Trainer],
        artifacts: ArtifactStore,
        fetch: Fetch,
        me: Me,
    ) -> None:
        self._world, self._store, self._node, self._vouch = world, store, node, vouch
        self._trainer_for, self._artifacts, self._fetch = trainer, artifacts, fetch
        self._trainers: dict[str, Trainer] = {}
        self._counted = {key.removeprefix(COUNTED): int(value) for key, value in store.scan(COUNTED)}
        """By job: the newest round whose update of this node is in the model."""
        self._kept = {key: wire.unpack(value, Kept) for key, value in store.scan("update/")}
        self._updates = Updates(world, artifacts, self._kept.values())
        self._peer: Peer | None = None
        self._training: dict[str, tuple[RoundOpen, asyncio.Task[None]]] = {}
        self._next: dict[str, tuple[RoundOpen, float]] = {}
        """By job: what was opened meanwhile, where a late update still counts, and when."""
        self._pushing: set[str] = set()
        self._masking = Masking(world, store, me, artifacts, self._keep)
        self._rooms = Rooms(1)
        self._at_hand = AtHand()
        self._had = dict[str, str]()
        """By job: the weights on disk."""
        self._due: asyncio.Task[None] | None = None
        """Commits what is not urgent."""
        self._told: dict[str, RoundOpen] = {}
        """By job: what was opened last."""
        self._starting = asyncio.Lock()
        self.paused = False

    @property
    def working(self) -> bool:
        """A round is being trained."""
        return any(not task.done() for _, task in self._training.values())

    def attach(self, peer: Peer) -> None:
        """An edge is here: what was not counted yet goes to it."""
        self._peer = peer
        for key in self._kept:
            self._push_later(key)

    def detach(self) -> None:
        """The edge is away; training goes on."""
        self._peer = None

    def opened(self, message: RoundOpen, frames: Sequence[Buffer] = ()) -> None:
        """A round begins, or is announced again. `frames`: what of its weights came along."""
        self._at_hand.find(message, frames)
        this, here = (message.round, message.plan.step), False
        self._told[message.job] = message
        secure = message.plan.secure
        if secure is not None and self._peer is not None:
            self._masking.opened(message, secure, self._peer)
            here = self._masking.has(message)
        for key, kept in list(self._kept.items()):
            meta = kept.meta
            if meta.job != message.job or not counts(meta, message) or not self._masking.masked_for(meta, message):
                continue
            if not kept.lost and not meta.error:  # what failed is tried again: its cause may be over
                here = here or (meta.round, meta.step) == this
                self._push_later(key)
        if here:
            return
        running = self._training.get(message.job)
        if running is not None and not running[1].done():
            was = running[0]
            if (was.round, was.plan.step) == this:
                return
            if 0 < message.plan.since <= was.round:
                self._next[message.job] = message, self._world.now()
                return
            running[1].cancel()
        self._begin(message)

    def secure_said(self, message: Heard) -> None:
        """A word of the edge in an exchange of keys."""
        self._masking.said(message)

    def _begin(self, message: RoundOpen) -> None:
        weights = self._at_hand.find(message)  # others may be by the time that its process has started
        task = asyncio.get_running_loop().create_task(self._train(message, weights))
        self._training[message.job] = (message, task)

    async def closed(self, message: RoundClosed) -> None:
        """The round is checkpointed: what is in it may be forgotten; the process too, if no other follows soon."""
        me, ended = self._node.id, message.state != "running"
        keys = [key for key, kept in self._kept.items() if over(kept.meta, message, me)]
        gone = [self._kept.pop(key) for key in keys]
        for key in keys:
            self._store.put(key, None)
        self._remember(message, me, ended=ended)
        if gone:
            self._pin()
            self._commit_later(0.0 if ended else LATER_S)
            await self._updates.drop(gone)
        await self._masking.closed(message)
        running = self._training.get(message.job)
        round_ = running[0].round if running is not None else 0
        if running is not None and (ended or (round_ <= message.round and not late(round_, message))):
            running[1].cancel()
        if ended:
            for table in (self._next, self._training, self._told):
                table.pop(message.job, None)
            self._rooms.clear()
            self._at_hand.forget(message.job)
            await self._drop_trainer(message.job)
            await self._updates.over(message.job)
            await self._artifacts.drop(self._had.pop(message.job, ""))
            await self._artifacts.release()

    def _commit_later(self, seconds: float) -> None:
        """What the end of a round changed, with the next update, or by itself: a device that dies before that is one
        that has not heard of the end, and hears it again.
        """
        if self._due is None:
            self._due = asyncio.get_running_loop().create_task(self._commit_due(seconds))
            self._due.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _commit_due(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._due = None
        await self._commit()

    def _remember(self, message: RoundClosed, me: str, *, ended: bool) -> None:
        """Which update of this node is in the model: made durable with the update's end."""
        if ended and self._counted.pop(message.job, None) is not None:
            self._store.put(COUNTED + message.job, None)
        elif not ended and me in message.included:
            self._counted[message.job] = message.round
            self._store.put(COUNTED + message.job, b"%d" % message.round)

    async def stop(self) -> None:
        """End every process; updates stay on disk."""
        for _, task in self._training.values():
            task.cancel()
        for trainer in self._trainers.values():
            await trainer.stop()

    def pause(self, *, paused: bool) -> None:
        """Serving comes first: hold training, or let it go on."""
        if paused == self.paused:
            return
        self.paused = paused
        for trainer in self._trainers.values():
            (trainer.pause if paused else trainer.resume)()

    async def _train(self, message: RoundOpen, weights: Buffer | None) -> None:
        await self._one_round(message, weights)
        later, since = self._next.pop(message.job, (None, 0.0))
        if later is not None:
            left = max(1.0, later.deadline_s - (self._world.now() - since))
            self._begin(msgspec.structs.replace(later, deadline_s=left))

    async def _one_round(self, message: RoundOpen, weights: Buffer | Path | None) -> None:
        rounds = message.round - message.plan.since + 1 if message.plan.since else 1
        opened = self._world.now()
        deadline = opened + message.deadline_s * rounds
        first = self._stamp(key_of(message.job, message.round, message.plan.step))
        meta = UpdateMeta(message.job, message.round, {self._node.id: 1}, first, "fp32", 0, step=message.plan.step)
        try:
            trainer = await self._trainer(message.job, message.bundle, message.signature, deadline)
            if weights is None:
                async with self._artifacts.keeping(message.weights):
                    weights = await self._patient(deadline, lambda: self._bring(message))
                    done = await self._run(trainer, message, weights, opened, deadline)
            else:
                done = await self._run(trainer, message, weights, opened, deadline)
        except errors.MsrtError as error:
            log.warning("training.failed", job=message.job, round=message.round, error=errors.words_of(error))
            await self._drop_trainer(message.job)
            await self._keep(msgspec.structs.replace(meta, error=f"{error.code}: {error.text}"[:500]), b"")
            return
        log.info("training.round_done", job=message.job, round=message.round, step=message.plan.step, **done.metrics)
        metrics = done.metrics | {"update_bytes": float(length_of(done.payload))}
        samples = {self._node.id: done.samples}
        meta = msgspec.structs.replace(meta, nodes=samples, encoding=done.encoding, size=done.size, metrics=metrics)
        if message.plan.secure is None:
            await self._keep(meta, done.payload)
            return
        try:
            await self._masking.trained(meta, done.payload)
        except errors.LocalError as error:
            await self._keep(
                msgspec.structs.replace(meta, nodes={self._node.id: 1}, metrics={}, error=errors.words_of(error)), b""
            )

    async def _bring(self, message: RoundOpen) -> Buffer | Path:
        """Where the weights lie, or themselves."""
        before = self._had.get(message.job, "")
        await bring(self._world, self._artifacts, self._fetch, message, self._rooms, before)
        self._had[message.job] = message.weights
        if before != message.weights:  # at once: pages that are free again soon never reach the disk
            await self._artifacts.drop(before, reuse=True)
        weights = await self._artifacts.file(message.weights) or await self._artifacts.read(message.weights)
        if message.chain and self._at_hand.takes(self._artifacts.size(message.weights) or 0):
            self._at_hand.keep(message, await self._artifacts.read(message.weights))
        return weights

    def _stamp(self, key: str) -> str:
        """The parent that an update goes to first, or went to before it was lost."""
        lost, parent = self._kept.get(key), self._peer
        if lost is not None:
            return lost.meta.first_parent
        return f"{parent.node}/{parent.session.peer_boot}" if parent is not None else ""

    async def _run(
        self, trainer: Trainer, message: RoundOpen, weights: Buffer | Path, opened: float, deadline: float
    ) -> Trained:
        index = message.participants.get(self._node.id, 0)
        node = Node(self._node.id, self._node.labels, index, message.count, self._node.data)
        now = self._world.now()
        within = max(0.1, deadline - now)
        left = left_to_work(message.plan.work_s, now - opened)
        private = message.plan.private or PrivatePlan()
        asked = Asked(left, private.noise, private.releases, self._counted.get(message.job, 0))
        turn = (message.round - 1) * message.plan.steps + message.plan.step + 1
        encoding = PLAIN if message.plan.secure else message.compression
        return await trainer.train(node, turn, weights, encoding, within, asked)

    @contextlib.asynccontextmanager
    async def lend(self, job: str, bundle: str, signature: bytes) -> AsyncIterator[Trainer]:
        """The job's process, for what is no round; let go afterwards where no round keeps it. Raises what is wrong with
        the job.
        """
        try:
            yield await self._trainer(job, bundle, signature, self._world.now())
        finally:
            if job not in self._told:
                await self._drop_trainer(job)

    async def _trainer(self, job: str, bundle: str, signature: bytes, deadline: float) -> Trainer:
        """The job's process, started if need be. Raises what is wrong with the job."""
        async with self._starting:
            trainer = self._trainers.get(job)
            if trainer is not None:
                return trainer
            claim = bundle_claim(job, bundle, signature)
            await self._patient(deadline, lambda: self._vouch(claim))
            trainer = self._trainer_for(job)
            await trainer.start(await self._patient(deadline, lambda: self._artifacts.get(bundle, self._fetch)))
            self._trainers[job] = trainer
            if self.paused:
                trainer.pause()
            return trainer

    async def _patient(self, deadline: float, fetch: Callable[[], Awaitable[T]]) -> T:
        """What it brings. A full disk, or an edge that went away, is waited out while the round lasts: a job whose
        devices all fail at once is soon given up.
        """
        while True:
            try:
                return await fetch()
            except PASSING as error:
                if self._world.now() + RESEND_S >= deadline:
                    raise
                log.warning("training.waits", error=errors.words_of(error), again_in_s=RESEND_S)
                await asyncio.sleep(RESEND_S)

    async def _drop_trainer(self, job: str) -> None:
        trainer = self._trainers.pop(job, None)
        if trainer is not None:
            await trainer.stop()

    async def _keep(self, meta: UpdateMeta, payload: Buffer | Path) -> None:
        """On disk first: a restart sends the same update again instead of another one."""
        key = key_of(meta.job, meta.round, meta.step)
        await self._note(key, await self._updates.keep(meta, payload))
        self._push_later(key)

    async def _note(self, key: str, kept: Kept) -> None:
        self._kept[key] = kept
        self._pin()
        self._store.put(key, wire.pack(kept))
        await self._commit()

    def _pin(self) -> None:
        """What is not counted yet may not be evicted."""
        self._artifacts.pin((kept.digest for kept in self._kept.values() if kept.digest), "updates")

    async def _commit(self) -> None:
        try:
            await self._world.offload(self._store.commit)
        except errors.DiskFull as error:
            log.warning("training.update_not_on_disk", error=error.text)

    def _push_later(self, key: str) -> None:
        if self._peer is not None and key not in self._pushing:
            self._pushing.add(key)
            self._peer.spawn(self._push(key, self._peer))

    async def _push(self, key: str, peer: Peer) -> None:
        try:
            while (kept := self._kept.get(key)) is not None and not kept.lost and peer is self._peer:
                try:
                    await self._send(peer, kept)
                except errors.Disconnected:
                    return
                except (errors.NotFound, errors.Corrupt) as error:
                    log.warning("training.update_lost", job=kept.meta.job, round=kept.meta.round, error=error.text)
                    await self._lost(key)
                except (errors.BadUpdate, errors.StreamCancelled) as error:
                    log.warning("training.update_refused", job=kept.meta.job, round=kept.meta.round, error=error.text)
                    return
                except errors.MsrtError as error:
                    log.info("training.update_again", job=kept.meta.job, error=errors.words_of(error))
                    await asyncio.sleep(RESEND_S)
                    continue
                return
        finally:
            self._pushing.discard(key)

    async def _lost(self, key: str) -> None:
        """A power failure took an update: it is trained again while its round lasts, and is the same."""
        meta = self._kept[key].meta
        await self._note(key, Kept(meta, lost=True))
        told = self._told.get(meta.job)
        if told is not None and key_of(told.job, told.round, told.plan.step) == key:
            self._begin(told)

    async def _send(self, peer: Peer, kept: Kept) -> None:
        told = self._told.get(kept.meta.job)
        async with self._updates.lent(kept, quickly=told is not None and told.checksums) as (data, size, digest):
            await peer.push("update", msgspec.to_builtins(kept.meta), data, size=size, digest=digest)
