"""A device's part in training: fetch, train on its own data, keep the update until it is counted, send it up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.protocol import wire
from msrt.protocol.messages import RoundClosed, RoundOpen, UpdateMeta
from msrt.training.task import Node
from msrt.training.trainer import Trainer
from msrt.trust.identity import Purpose, verify
from msrt.world.world import Store, World

__all__ = ["Training"]

log = structlog.get_logger()
RESEND_S: Final = 2.0


class _Kept(msgspec.Struct, frozen=True):
    """An update on disk."""

    meta: UpdateMeta
    payload: bytes


class Training:
    """All jobs of one device, one round at a time. `fetch` brings an artifact by digest through the edge."""

    def __init__(
        self,
        world: World,
        store: Store,
        node: Node,
        cloud_identity: bytes,
        *,
        trainer: Callable[[str], Trainer],
        fetch: Callable[[str], Awaitable[Buffer]],
    ) -> None:
        self._world, self._store, self._node, self._cloud = world, store, node, cloud_identity
        self._trainer_for, self._fetch = trainer, fetch
        self._trainers: dict[str, Trainer] = {}
        self._kept = {key: wire.unpack(value, _Kept) for key, value in store.scan("update/")}
        self._peer: Peer | None = None
        self._training: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._pushing: set[str] = set()
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

    def opened(self, message: RoundOpen) -> None:
        """A round begins, or is announced again."""
        key = f"update/{message.job}"
        kept = self._kept.get(key)
        if kept is not None and kept.meta.round == message.round:
            self._push_later(key)
            return
        running = self._training.get(message.job)
        if running is not None and not running[1].done():
            if running[0] == message.round:
                return
            running[1].cancel()
        task = asyncio.get_running_loop().create_task(self._train(message))
        self._training[message.job] = (message.round, task)

    async def closed(self, message: RoundClosed) -> None:
        """The round is checkpointed: its update may be forgotten; an ended job's process too."""
        key = f"update/{message.job}"
        kept = self._kept.get(key)
        if kept is not None and kept.meta.round <= message.round:
            del self._kept[key]
            self._store.put(key, None)
            await self._commit()
        running = self._training.get(message.job)
        if running is not None and running[0] <= message.round:
            running[1].cancel()
        if message.state != "running":
            self._training.pop(message.job, None)
            trainer = self._trainers.pop(message.job, None)
            if trainer is not None:
                await trainer.stop()

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

    async def _train(self, message: RoundOpen) -> None:
        deadline = self._world.now() + message.deadline_s
        parent = self._peer
        first = f"{parent.node}/{parent.session.peer_boot}" if parent is not None else ""
        try:
            verify(self._cloud, message.bundle.encode(), message.signature, Purpose.BUNDLE)
            trainer = self._trainers.get(message.job)
            if trainer is None:
                trainer = self._trainer_for(message.job)
                await trainer.start(await self._brought(message.bundle, deadline))
                self._trainers[message.job] = trainer
                if self.paused:
                    trainer.pause()
            weights = await self._brought(message.weights, deadline)
            index = message.participants.get(self._node.id, 0)
            node = Node(self._node.id, self._node.labels, index, message.count, self._node.data)
            within = max(0.1, deadline - self._world.now())
            done = await trainer.train(node, message.round, weights, message.compression, within)
        except errors.MsrtError as error:
            log.warning("training.failed", job=message.job, round=message.round, error=str(error))
            await self._drop_trainer(message.job)
            meta = UpdateMeta(
                message.job,
                message.round,
                {self._node.id: 1},
                first,
                "fp32",
                0,
                error=f"{error.code}: {error.text}"[:500],
            )
            await self._keep(meta, b"")
            return
        log.info("training.round_done", job=message.job, round=message.round, **done.metrics)
        metrics = done.metrics | {"update_bytes": float(len(done.payload))}
        meta = UpdateMeta(
            message.job, message.round, {self._node.id: done.samples}, first, done.encoding, done.size, metrics
        )
        await self._keep(meta, done.payload)

    async def _brought(self, digest: str, deadline: float) -> Buffer:
        """An artifact. A full disk is waited out while the round lasts: one that fails at once is soon given up."""
        while True:
            try:
                return await self._fetch(digest)
            except errors.DiskFull as error:
                if self._world.now() + RESEND_S >= deadline:
                    raise
                log.warning("training.waits_for_space", digest=digest, error=error.text, again_in_s=RESEND_S)
                await asyncio.sleep(RESEND_S)

    async def _drop_trainer(self, job: str) -> None:
        trainer = self._trainers.pop(job, None)
        if trainer is not None:
            await trainer.stop()

    async def _keep(self, meta: UpdateMeta, payload: bytes) -> None:
        """On disk first: a restart sends the same update again instead of another one."""
        key = f"update/{meta.job}"
        self._kept[key] = kept = _Kept(meta, payload)
        self._store.put(key, wire.pack(kept))
        await self._commit()
        self._push_later(key)

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
            while (kept := self._kept.get(key)) is not None and peer is self._peer:
                meta = msgspec.to_builtins(kept.meta)
                digest = await self._world.offload(_sha256, kept.payload)
                try:
                    await peer.push("update", meta, kept.payload, size=len(kept.payload), digest=digest)
                except errors.Disconnected:
                    return
                except (errors.BadUpdate, errors.StreamCancelled) as error:
                    log.warning("training.update_refused", job=kept.meta.job, round=kept.meta.round, error=str(error))
                    return
                except errors.MsrtError as error:
                    log.info("training.update_again", job=kept.meta.job, error=str(error))
                    await asyncio.sleep(RESEND_S)
                    continue
                return
        finally:
            self._pushing.discard(key)


def _sha256(data: bytes) -> str:
    import hashlib  # noqa: PLC0415 - only here

    return hashlib.sha256(data).hexdigest()
