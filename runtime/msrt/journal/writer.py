"""The shell around the master's log: group commit, and the tails that followers are fed from."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from msrt.errors import Conflict, MsrtError, Overloaded
from msrt.journal.block import Block, Snapshot
from msrt.journal.commits import Offload
from msrt.journal.fact import Fact
from msrt.journal.facts import Entry, pack_entry
from msrt.journal.log import Log
from msrt.journal.state import Facts, State
from msrt.protocol.messages import Follow

__all__ = ["Writer"]

log = structlog.get_logger()
QUEUE_LIMIT: Final = 10_000
"""Appends waiting, beyond which they are refused."""
BATCH_ENTRIES: Final = 512
COMPACT_EVERY: Final = 20_000
"""Entries after which a snapshot is worth writing: a restart reads at most twice as many."""

Decide = Callable[[State], Sequence[Entry]]


@dataclass
class _Job:
    """One caller's wish, and who waits for it."""

    done: asyncio.Future[list[Entry]]
    entries: list[tuple[Entry, bytes]]
    decide: Decide | None = None


class Writer:
    """Appends to a `Log` for many callers at once: those that ask while a commit runs share the next one.

    Nothing is in force, and nobody is told, before it is on disk.
    """

    def __init__(self, journal: Log, offload: Offload, *, compact_every: int = COMPACT_EVERY) -> None:
        self.log = journal
        self._offload = offload
        self._queue: deque[_Job] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[Facts], None]] = []
        self._since_snapshot = 0
        self._compact_every = compact_every

    @property
    def state(self) -> State:
        """What is in force."""
        return self.log.state

    def subscribe(self, listener: Callable[[Facts], None]) -> None:
        """Call `listener` on the loop with each batch that comes into force."""
        self._listeners.append(listener)

    async def append(self, *entries: Entry) -> None:
        """Durable and in force on return.

        Raises DiskFull (then it never happens), Overloaded, and what `pack_entry` raises. A caller that is cancelled
        does not know.
        """
        await self._submit([(entry, pack_entry(entry)) for entry in entries], None)

    async def decide(self, decide: Decide) -> list[Entry]:
        """Look at the state and append what follows from it, with nothing in between: `decide` is called with all
        that was asked before in force. It may raise; it may return nothing."""
        return await self._submit([], decide)

    async def replace(self, known: Fact, by: Entry) -> bool:
        """Say something else of what `known` says, unless that was done meanwhile; was it done now? Raises as
        `append`."""
        return bool(await self.decide(lambda now: [by] if now.said(known) == known else []))

    async def _submit(self, entries: list[tuple[Entry, bytes]], decide: Decide | None) -> list[Entry]:
        if len(self._queue) >= QUEUE_LIMIT:
            raise Overloaded(f"{QUEUE_LIMIT} appends to the journal wait for the disk")
        loop = asyncio.get_running_loop()
        job = _Job(loop.create_future(), entries, decide)
        self._queue.append(job)
        if self._pump is None:
            self._pump = loop.create_task(self._run())
        return await job.done

    async def close(self) -> None:
        """Wait for what was asked."""
        if self._pump is not None:
            await asyncio.wait([self._pump])

    # --- the pump ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        batch: list[_Job] = []
        try:
            while self._queue:
                batch = self._next_batch()
                if batch:
                    await self._write(batch)
                if self._since_snapshot >= self._compact_every:
                    await self._compact()
        except BaseException as error:
            self._fail([*batch, *self._queue], error)
            self._queue.clear()
            raise
        finally:
            self._pump = None

    def _next_batch(self) -> list[_Job]:
        """Plain appends up to the next decision; a decision only as the first, so that it sees all before it."""
        batch: list[_Job] = []
        count = 0
        while self._queue and count < BATCH_ENTRIES:
            job = self._queue[0]
            if job.decide is not None:
                if batch:
                    break
                if not self._decided(job):
                    self._queue.popleft()
                    continue
            batch.append(self._queue.popleft())
            count += len(job.entries)
        return batch

    def _decided(self, job: _Job) -> bool:
        """Run a decision; whether there is anything to write."""
        assert job.decide is not None
        try:
            job.entries = [(entry, pack_entry(entry)) for entry in job.decide(self.log.state)]
        except Exception as error:  # noqa: BLE001 - it is the caller's own, and goes to the caller
            self._fail([job], error)
            return False
        if not job.entries and not job.done.done():
            job.done.set_result([])
        return bool(job.entries)

    async def _write(self, batch: list[_Job]) -> None:
        entries = [entry for job in batch for entry in job.entries]
        try:
            written = await self._offload(self.log.write, entries)
        except MsrtError as error:
            log.warning("journal.append_failed", code=error.code, error=error.text, entries=len(entries))
            self._fail(batch, error)
            return
        self.log.publish(written)
        self._since_snapshot += len(entries)
        for job in batch:
            if not job.done.done():
                job.done.set_result([entry for entry, _ in job.entries])
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listener in self._listeners:
            listener(written.entries)

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        for job in jobs:
            if job.done.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                job.done.cancel()
            else:
                job.done.set_exception(error)

    async def _compact(self) -> None:
        self._since_snapshot = 0
        frozen = self.log.freeze()
        try:
            await self._offload(self.log.compact, frozen)
            self.log.compacted(frozen)
            await self._offload(self.log.flush)
        except MsrtError as error:
            log.warning("journal.snapshot_failed", code=error.code, error=error.text)

    # --- followers ---------------------------------------------------------------------------------------------

    async def tail(self, follow: Follow) -> AsyncIterator[Block | Snapshot]:
        """Everything after a follower's positions, and then what comes, for ever: send a block as its message, push
        a snapshot as a stream of kind "snapshot". Raises JournalDiverged, Forbidden: say FollowRefused.
        """
        self.log.check(follow)
        positions = dict(follow.scopes)
        while True:
            changed = self._changed
            for scope, start in list(positions.items()):
                after = start
                while (piece := await self._next_piece(scope, after)) is not None:
                    yield piece
                    after = positions[scope] = piece.last if isinstance(piece, Block) else piece.offset
            await changed.wait()

    async def _next_piece(self, scope: str, after: int) -> Block | Snapshot | None:
        if after >= self.log.positions.get(scope, 0):
            return None
        try:
            if not self.log.needs_snapshot(scope, after):
                block: Block | None = await self._offload(self.log.next_block, scope, after)
                return block
        except Conflict:
            log.info("journal.tail_trimmed", scope=scope, after=after)
        frozen = self.log.freeze(scope)[scope]
        snapshot: Snapshot = await self._offload(self.log.seal, scope, frozen)
        return snapshot
