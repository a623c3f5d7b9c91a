"""What this edge keeps of its shards: the newest of each on its own disk, and what the cloud should have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.protocol.messages import RoundNote, ShardMeta

if TYPE_CHECKING:
    from msrt_edge.parameters import ParameterServers

__all__ = ["Keeping"]

log = structlog.get_logger()
RESEND_S: Final = 1.0
NOTES: Final = 64
"""Rounds whose notes wait for the cloud; of more the oldest go."""


class Keeping:
    """One job's. Writes one after the other, in the order in which they were asked for."""

    def __init__(self, servers: ParameterServers, job: str) -> None:
        self._all, self._world, self._job = servers, servers.world, job
        self._digests = {
            int(key.rpartition("/")[2]): value.decode() for key, value in servers.store.scan(f"{job}/")
        }  # fmt: skip
        self._outbox: dict[int, tuple[ShardMeta, str]] = {}
        """Shard to what the cloud should have of it, and the digest of its bytes."""
        self._sent: dict[int, tuple[ShardMeta, str]] = {}
        """What of it this cloud has, or did not want."""
        self._sending: set[int] = set()
        self._notes: list[RoundNote] = []
        self._turn = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._pin()

    async def own(self, shard: int) -> Buffer | None:
        """The bytes of a shard as this edge wrote it last."""
        digest = self._digests.get(shard)
        if digest is None:
            return None
        try:
            return await self._all.artifacts.read(digest)
        except errors.MsrtError as error:
            log.warning("shards.snapshot_lost", job=self._job, shard=shard, error=error.text)
            return None

    def keep(self, save: Callable[[], dict[int, Buffer]]) -> None:
        """Write these to disk soon, unless that is going on."""
        if not self._turn.locked():
            self._later(self._write(save))

    def snapshot(self, generation: int, note: RoundNote, save: Callable[[], dict[int, Buffer]]) -> None:
        """Write these to disk and send them up: the end of a round."""
        self._notes = [*self._notes, note][-NOTES:]
        self._later(self._write(save, generation, note.round))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _write(self, save: Callable[[], dict[int, Buffer]], generation: int = 0, round_: int = 0) -> None:
        async with self._turn:
            shards: dict[int, Buffer] = await self._world.offload(save)
            for shard, data in shards.items():
                await self._write_one(shard, data)
                if round_:
                    meta = ShardMeta(self._job, generation, round_, shard, tuple(self._notes))
                    self._outbox[shard] = meta, self._digests[shard]
        self._pin()
        self.send_up()

    async def _write_one(self, shard: int, data: Buffer) -> None:
        """A full disk is waited out: a shard that is nowhere but here must not be lost to it."""
        while True:
            try:
                digest = await self._all.artifacts.put_bytes(data)
                before = self._digests.get(shard)
                self._digests[shard] = digest
                self._pin()
                self._all.store.put(f"{self._job}/{shard}", digest.encode())
                await self._world.offload(self._all.store.commit)
            except errors.DiskFull as error:
                log.warning("shards.not_on_disk", job=self._job, error=error.text)
                await asyncio.sleep(RESEND_S)
                continue
            await self._drop(before)
            return

    async def _drop(self, digest: str | None) -> None:
        used = {*self._digests.values(), *(other for _, other in self._outbox.values())}
        if digest and digest not in used:
            await self._all.artifacts.drop(digest)

    def _pin(self) -> None:
        self._all.artifacts.pin(
            {*self._digests.values(), *(d for _, d in self._outbox.values())}, f"shards/{self._job}"
        )

    # --- to the cloud -----------------------------------------------------------------------------------------

    def attached(self) -> None:
        """The cloud is here, and may have lost what it had."""
        self._sent.clear()
        self.send_up()

    def send_up(self) -> None:
        """What it should have and has not."""
        cloud = self._all.cloud
        if cloud is None or not cloud.live:
            return
        for shard, newest in self._outbox.items():
            if shard not in self._sending and self._sent.get(shard) is not newest:
                self._sending.add(shard)
                cloud.spawn(self._push(cloud, shard))

    async def _push(self, cloud: Peer, shard: int) -> None:
        """Until the cloud has the newest: another round may end meanwhile."""
        try:
            while cloud.live and (newest := self._outbox.get(shard)) is not None:
                if self._sent.get(shard) is newest:
                    return
                await self._push_one(cloud, shard, *newest)
                self._sent[shard] = newest
        except errors.Disconnected:
            return
        finally:
            self._sending.discard(shard)

    async def _push_one(self, cloud: Peer, shard: int, meta: ShardMeta, digest: str) -> None:
        """Returns when the cloud has it, or does not want it. Raises Disconnected."""
        while self._outbox.get(shard) == (meta, digest):
            try:
                async with self._all.artifacts.lend(digest) as lent:
                    await cloud.push("shard", msgspec.to_builtins(meta), lent.read, size=lent.size, digest=digest)
            except errors.Disconnected:
                raise
            except (errors.StreamCancelled, errors.BadUpdate) as error:
                log.info("shards.snapshot_refused", job=self._job, shard=shard, error=error.text)
            except errors.MsrtError as error:
                log.info("shards.snapshot_again", job=self._job, shard=shard, error=errors.words_of(error))
                await asyncio.sleep(RESEND_S)
                continue
            return

    def advanced(self, round_: int) -> None:
        """The cloud checkpointed that round: what is older may be forgotten."""
        self._notes = [note for note in self._notes if note.round > round_]
        for shard in [shard for shard, (meta, _) in self._outbox.items() if meta.round <= round_]:
            del self._outbox[shard]

    # --- the end ----------------------------------------------------------------------------------------------

    async def forget(self, shard: int) -> None:
        """It is another server's."""
        self._outbox.pop(shard, None)
        digest = self._digests.pop(shard, None)
        if digest is None:
            return
        self._all.store.put(f"{self._job}/{shard}", None)
        with contextlib.suppress(errors.DiskFull):  # it goes with the next commit
            await self._world.offload(self._all.store.commit)
        self._pin()
        await self._drop(digest)

    async def close(self) -> None:
        """The job is over."""
        for task in list(self._tasks):
            task.cancel()
        for shard in list(self._digests):
            await self.forget(shard)
