"""The master's journal: appends entries, signs them, keeps them, hands them to followers.

A position is (log_id, epoch, offset). Each process start opens a new epoch, higher than all before and than any
clock-derived one: a master that comes back from an old copy can therefore tell a follower that has seen entries which
this history does not hold, and never sends it a second, different truth.

Pure but for the store: `write` blocks (call it through `offload`), `publish` belongs on the event loop; `writer.py`
does both.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import msgspec

from msrt.errors import Conflict, Forbidden, JournalDiverged, MsrtError
from msrt.journal.block import Block, Packed, Sign, Snapshot, chunks_of, cut
from msrt.journal.facts import Entry, pack_entry
from msrt.journal.shelf import Frozen, Shelf
from msrt.journal.state import Facts, State
from msrt.protocol.messages import Follow
from msrt.world.world import Store

__all__ = ["Log", "Written"]

EPOCHS_KEPT: Final = 4096
"""Starts of the master that are remembered one by one."""
_HEAD: Final = "journal"


class _Head(msgspec.Struct, frozen=True, array_like=True):
    log: str
    epochs: list[tuple[int, int]]
    """(epoch, offset of its first entry), in order."""


class Written(msgspec.Struct, frozen=True):
    """One committed batch, not yet seen by anybody."""

    entries: list[tuple[int, Entry]]
    blocks: list[tuple[int, Block]]
    """With the place of each in the store."""


class Log:
    """The one ordered log of desired state.

    `log_id` names a new log; one that exists keeps its own. `epoch`: seconds since 1970 are a good choice, the log
    takes the next higher one when it has seen that. Raises Corrupt, DiskFull.
    """

    def __init__(self, store: Store, sign: Sign, *, log_id: str, epoch: int) -> None:
        self._store, self._sign = store, sign
        self._shelf = Shelf(store)
        self._dirty = False
        """A commit failed: what the store still holds is void, but has to be committed before anything else."""
        self.state = State()
        self._shelf.load(self.state)
        self.offset = max(self._shelf.positions.values(), default=0)
        """Of the last entry in force."""
        head = self._open_head(log_id, epoch)
        self.log_id: Final = head.log
        self._epochs = head.epochs
        self.epoch: Final = head.epochs[-1][0]

    def _open_head(self, log_id: str, epoch: int) -> _Head:
        found = dict(self._store.scan(_HEAD)).get(_HEAD)
        head = msgspec.msgpack.decode(found, type=_Head) if found else _Head(log_id, [])
        epochs = list(head.epochs)
        epoch = max(epoch, epochs[-1][0] + 1 if epochs else 1)
        if epochs and epochs[-1][1] > self.offset:
            epochs.pop()  # it wrote nothing: no follower can have seen it
        epochs.append((epoch, self.offset + 1))
        head = _Head(head.log, epochs[-EPOCHS_KEPT:])
        self._store.put(_HEAD, msgspec.msgpack.encode(head))
        self._store.commit()
        return head

    @property
    def positions(self) -> dict[str, int]:
        """Scope to the offset of its last entry."""
        return self._shelf.positions

    # --- writing -----------------------------------------------------------------------------------------------

    def append(self, *entries: Entry) -> int:
        """Write and publish: the offset of the last one. Blocking. Raises DiskFull, FrameTooLarge, CallerError."""
        return self.publish(self.write([(entry, pack_entry(entry)) for entry in entries]))

    def write(self, entries: Sequence[tuple[Entry, bytes]]) -> Written:
        """Make entries (with their packed bytes) durable, all or none. Blocking; one at a time.

        Raises DiskFull; then none of them ever comes into force, whatever the store commits later.
        """
        self.flush()
        numbered = [(self.offset + n, entry) for n, (entry, _) in enumerate(entries, 1)]
        blocks = self._seal(
            [(entry.scope, (offset, data)) for (offset, entry), (_, data) in zip(numbered, entries, strict=True)]
        )
        written = Written(numbered, [(self._shelf.write(block), block) for block in blocks])
        try:
            self._store.commit()
        except MsrtError:
            for scope in sorted({block.scope for block in blocks}):
                self._shelf.void(self.log_id, scope)
            self._dirty = True
            raise
        return written

    def _seal(self, entries: Sequence[tuple[str, Packed]]) -> list[Block]:
        """One signed block per scope, more only where one would be too large."""
        scopes: dict[str, list[Packed]] = {}
        for scope, packed in entries:
            scopes.setdefault(scope, []).append(packed)
        blocks: list[Block] = []
        for scope, items in scopes.items():
            prev = self._shelf.position(scope)
            for piece in cut(items):
                blocks.append(Block.make(self.log_id, self.epoch, scope, prev, piece, self._sign))
                prev = piece[-1][0]
        return blocks

    def publish(self, written: Written) -> int:
        """Bring a committed batch into force; the offset of its last entry."""
        for offset, entry in written.entries:
            self.state.apply(entry, offset)
        for at, block in written.blocks:
            self._shelf.publish(block, at)
        self.offset = max([self.offset, *(offset for offset, _ in written.entries)])
        return self.offset

    # --- following ---------------------------------------------------------------------------------------------

    def check(self, follow: Follow) -> None:
        """Whether a follower's positions are part of this history.

        Raises JournalDiverged (another log, or it is ahead of us), Forbidden (a scope that stays here).
        """
        if any(scope.startswith(".") for scope in follow.scopes):
            raise Forbidden("that scope of the journal does not leave the cloud")
        if not any(follow.scopes.values()) and not follow.log:
            return
        if follow.log != self.log_id:
            raise JournalDiverged(f"the replica follows journal {follow.log}, this is {self.log_id}")
        end = self._end(follow.epoch)
        for scope, offset in follow.scopes.items():
            last = min(end, self._shelf.position(scope))
            if offset > last:
                raise JournalDiverged(
                    f"the replica has {scope} up to {offset} of epoch {follow.epoch}, its master only up to {last}"
                )

    def _end(self, epoch: int) -> int:
        """The last offset that a follower which saw that epoch, and no later one, can share with us."""
        if not epoch:
            return 0
        place = bisect_right([known for known, _ in self._epochs], epoch) - 1
        if place < 0:
            return self._epochs[0][1] - 1  # forgotten since: it ended before the first that is kept
        if self._epochs[place][0] != epoch:
            return 0  # we never had it: written by a master that this one replaced
        return self._epochs[place + 1][1] - 1 if place + 1 < len(self._epochs) else self.offset

    def next_block(self, scope: str, after: int) -> Block | None:
        """The block that follows on `after`, None at the end. Blocking.

        Small blocks are joined and signed anew: a follower far behind pays for one signature per full block, not for
        one per batch of long ago. Raises Conflict when `after` is below the tail (see `needs_snapshot`).
        """
        blocks = self._shelf.read(scope, after)
        if self.needs_snapshot(scope, after) or (blocks and blocks[0].prev > after):
            raise Conflict(f"the journal's tail of {scope} begins after {after}", hint="load a snapshot")
        if not blocks:
            return None
        if len(blocks) == 1 and blocks[0].prev == after:
            return blocks[0]
        packed = [item for block in blocks for item in block.packed if item[0] > after]
        return Block.make(self.log_id, blocks[-1].epoch, scope, after, next(cut(packed)), self._sign)

    def needs_snapshot(self, scope: str, after: int) -> bool:
        """Whether blocks after that offset are gone."""
        return after < self._shelf.floor(scope)

    def freeze(self, *scopes: str) -> Frozen:
        """The living facts held still, for `seal` and `compact` in a thread."""
        return {scope: (self._shelf.position(scope), self.state.facts(scope)) for scope in scopes or self.positions}

    def seal(self, scope: str, frozen: tuple[int, Facts]) -> Snapshot:
        """A signed snapshot of one scope. Blocking."""
        offset, facts = frozen
        starts = [start for _, start in self._epochs]
        epoch = self._epochs[max(0, bisect_right(starts, offset) - 1)][0]  # ours may never write an entry
        return Snapshot.make(self.log_id, epoch, scope, offset, list(chunks_of(facts)), self._sign)

    def compact(self, frozen: Frozen) -> None:
        """Write the snapshots that a restart begins with, and let go of blocks that are older than the last ones.

        Blocking; then `compacted` on the loop, then `flush`. Raises DiskFull, which loses nothing.
        """
        self.flush()
        self._shelf.compact(frozen, keep=True)
        self._dirty = True

    def compacted(self, frozen: Frozen) -> None:
        """After `compact`."""
        self._shelf.compacted(frozen, keep=True)

    def flush(self) -> None:
        """Commit what the store still holds. Blocking. Raises DiskFull."""
        if self._dirty:
            self._store.commit()
            self._dirty = False
