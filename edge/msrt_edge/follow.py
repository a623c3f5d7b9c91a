"""Follows the cloud's journal onto this edge's own disk, and tells the edge what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.journal.block import Block, Snapshot
from msrt.journal.facts import GLOBAL
from msrt.journal.replica import Replica
from msrt.journal.state import State
from msrt.protocol.messages import FollowRefused, JournalBlock, StreamOpen
from msrt.trust.identity import Purpose, verify
from msrt.world.world import World

__all__ = ["Follower"]

log = structlog.get_logger()
SNAPSHOT_LIMIT = 256 << 20
RETRY_S = 1.0


class Follower:
    """The replica's shell. `changed` is called after entries came into force."""

    def __init__(self, world: World, cloud_identity: bytes, region: str, changed: Callable[[], None]) -> None:
        self._world, self._changed = world, changed
        self.replica = Replica(
            world.disk.store("journal"),
            lambda data, signature: verify(cloud_identity, data, signature, Purpose.JOURNAL),
            (GLOBAL, region),
        )
        self.refused = ""
        """Why the cloud will not feed us: this edge is ahead of it, or of another journal."""
        self._queue: asyncio.Queue[tuple[Peer, Block | Snapshot]] = asyncio.Queue()
        self._saving = asyncio.Event()

    @property
    def state(self) -> State:
        """What is in force here, with or without the cloud."""
        return self.replica.state

    def attach(self, peer: Peer) -> None:
        """The cloud is here: ask for what this edge lacks."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self.refused = ""
        peer.send(self.replica.follow())

    def block(self, peer: Peer, message: JournalBlock, frames: list[Buffer]) -> None:
        """Entries came."""
        self._queue.put_nowait((peer, Block.received(message, frames[0] if frames else b"")))

    def stopped(self, message: FollowRefused) -> None:
        """The cloud says that this edge's journal is not its own."""
        self.refused = message.text
        log.error("journal.refused", why=message.text)

    def snapshot(self, peer: Peer, opened: StreamOpen) -> _SnapshotSink:
        """A snapshot comes in. Raises FrameTooLarge."""
        if opened.size > SNAPSHOT_LIMIT:
            raise errors.FrameTooLarge(opened.size, SNAPSHOT_LIMIT, "journal snapshot")
        return _SnapshotSink(self, peer, opened.meta)

    def take(self, peer: Peer, snapshot: Snapshot) -> None:
        """A whole snapshot came."""
        self._queue.put_nowait((peer, snapshot))

    async def run(self) -> None:
        """Apply in order, for ever; the disk follows behind in groups."""
        saver = asyncio.get_running_loop().create_task(self._save())
        try:
            while True:
                peer, piece = await self._queue.get()
                try:
                    opened = await self._world.offload(self.replica.open, piece)
                    new = self.replica.take(opened)
                except errors.MsrtError as error:
                    log.warning("journal.block_refused", code=error.code, error=errors.words_of(error))
                    await asyncio.sleep(RETRY_S)
                    if peer.live:
                        self.attach(peer)
                    continue
                self._saving.set()
                if new:
                    self._changed()
        finally:
            saver.cancel()

    async def _save(self) -> None:
        while True:
            await self._saving.wait()
            self._saving.clear()
            try:
                await self._world.offload(self.replica.commit)
                if self.replica.wants_compacting:
                    await self._world.offload(self.replica.compact, self.replica.freeze())
            except errors.DiskFull as error:
                log.warning("journal.replica_not_saved", error=error.text)
                await asyncio.sleep(RETRY_S)
                self._saving.set()


class _SnapshotSink:
    """Collects a snapshot in memory."""

    have = 0

    def __init__(self, follower: Follower, peer: Peer, meta: dict[str, object]) -> None:
        self._follower, self._peer, self._meta = follower, peer, meta
        self._data = bytearray()

    async def write(self, _offset: int, data: Buffer) -> None:
        self._data += data

    async def complete(self, _size: int, _digest: str) -> None:
        self._follower.take(self._peer, Snapshot.received(self._meta, bytes(self._data)))

    def abort(self, error: Exception) -> None:
        log.info("journal.snapshot_aborted", error=errors.words_of(error))
