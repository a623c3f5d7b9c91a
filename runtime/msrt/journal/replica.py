"""A follower's copy of the journal: checks every block, keeps it on its own disk, folds it into its own state.

A block is in force as soon as it is checked, before it is on disk: what a crash forgets here the master still has, and
a full disk is no reason to miss a new model. `durable` are the positions that may be reported as held.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from msrt.errors import DiskFull, JournalDiverged, JournalGap
from msrt.journal.block import Block, Snapshot, Verify, entries_of
from msrt.journal.shelf import Frozen, Shelf
from msrt.journal.state import Facts, State
from msrt.protocol.messages import Follow
from msrt.world.world import Store

__all__ = ["Opened", "Replica"]

PENDING_LIMIT: Final = 8 << 20
"""Bytes of blocks taken but not on disk, beyond which a full disk stops the following."""
COMPACT_BLOCKS: Final = 2048
"""Blocks in the tail at which it is worth a snapshot."""
_HEAD: Final = "journal"


class _Head(msgspec.Struct, frozen=True, array_like=True):
    log: str = ""
    epoch: int = 0


class Opened(NamedTuple):
    """A block or a snapshot whose signature was checked, and its entries."""

    source: Block | Snapshot
    entries: Facts
    chunks: list[bytes]
    """Of a snapshot."""
    state: State | None
    """What a snapshot leads to, as long as `taken` still holds: its folding takes long, and was done in a thread."""
    taken: int


class Replica:
    """Follows `scopes` of one journal. Scopes on disk that are not named are forgotten. Raises Corrupt when made.

    `open`, `commit` and `compact` block: call them through `offload`. `take` belongs on the event loop. A snapshot puts
    a new state in place of the old one: hold on to the replica, not to its `state`.
    """

    def __init__(self, store: Store, verify: Verify, scopes: Iterable[str]) -> None:
        self._store, self._verify = store, verify
        self._shelf = Shelf(store)
        self.scopes: Final = tuple(dict.fromkeys(scopes))
        self.state = State()
        self._shelf.load(self.state)
        found = dict(store.scan(_HEAD)).get(_HEAD)
        self._head = msgspec.msgpack.decode(found, type=_Head) if found else _Head()
        for scope in self._shelf.positions.keys() - self.scopes:
            self._shelf.forget(scope)
            self.state = self.state.replaced(scope, [])
        self._taken = 0
        """Bytes ever taken; changed on the loop only, as `_committed` is in the commit only."""
        self._committed = 0
        self._blocks = 0
        self._compacted: Frozen = {}
        self._compacting = threading.Lock()
        self.durable: dict[str, int] = self.positions

    @property
    def log_id(self) -> str:
        """The journal's id; empty before the first block."""
        return self._head.log

    @property
    def epoch(self) -> int:
        """The newest that a block of ours was written in."""
        return self._head.epoch

    @property
    def positions(self) -> dict[str, int]:
        """Scope to the offset of the last entry in force."""
        return {scope: self._shelf.position(scope) for scope in self.scopes}

    @property
    def uncommitted(self) -> int:
        """Bytes in force that are not on disk yet."""
        return self._taken - self._committed

    def follow(self) -> Follow:
        """What to say to the master."""
        return Follow(self._head.log, self._head.epoch, self.positions)

    def open(self, source: Block | Snapshot) -> Opened:
        """Check the signature and read the entries. Blocking. Raises BadSignature, MalformedFrame, FrameTooLarge."""
        source.check(self._verify)
        if isinstance(source, Block):
            return Opened(source, source.entries(), [], None, 0)
        taken, chunks = self._taken, source.chunks()
        entries = [item for chunk in chunks for item in entries_of(chunk)]
        return Opened(source, entries, chunks, self.state.replaced(source.scope, entries), taken)

    def apply(self, source: Block | Snapshot) -> Facts:
        """`open` and `take` in one."""
        return self.take(self.open(source))

    def take(self, opened: Opened) -> Facts:
        """Bring a checked block or snapshot into force; returns what is new (nothing for one seen before).

        Raises JournalGap (ask again with `follow`), JournalDiverged (stop and say so), DiskFull (the disk has been
        full for long).
        """
        source = opened.source
        if self._head.log and source.log != self._head.log:
            raise JournalDiverged(f"a block of journal {source.log} came, this replica follows {self._head.log}")
        position = self._shelf.position(source.scope)
        end = source.last if isinstance(source, Block) else source.offset
        if source.scope not in self.scopes or end <= position:
            return []
        if self.uncommitted > PENDING_LIMIT:
            raise DiskFull(f"{self.uncommitted} bytes of the journal are not on disk yet")
        self._settle()
        if isinstance(source, Block):
            fresh = self._append(source, opened.entries, position)
        else:
            fresh = self._load(source, opened)
        self._note(source)
        return fresh

    def _append(self, block: Block, entries: Facts, position: int) -> Facts:
        if block.prev > position:
            raise JournalGap(
                f"a block of {block.scope} follows on {block.prev}, the replica is at {position}", hint="it asks again"
            )
        self._shelf.publish(block, self._shelf.write(block))
        self._blocks += 1
        fresh = [(offset, entry) for offset, entry in entries if offset > position]
        for offset, entry in fresh:
            self.state.apply(entry, offset)
        return fresh

    def _load(self, snapshot: Snapshot, opened: Opened) -> Facts:
        current = opened.state is not None and opened.taken == self._taken
        with self._compacting:
            self._shelf.adopt(snapshot.scope, snapshot.offset, opened.chunks)
        state = opened.state if current else self.state.replaced(snapshot.scope, opened.entries)
        assert state is not None
        self.state = state
        return opened.entries

    def _note(self, source: Block | Snapshot) -> None:
        self._taken += len(source.payload)
        head = _Head(source.log, max(source.epoch, self._head.epoch))
        if head != self._head:
            self._head = head
            self._store.put(_HEAD, msgspec.msgpack.encode(head))

    def commit(self) -> None:
        """Put on disk what was taken. Blocking. Raises DiskFull; a later one tries again."""
        positions, taken = self.positions, self._taken
        self._store.commit()
        self.durable, self._committed = positions, taken

    # --- compacting --------------------------------------------------------------------------------------------

    @property
    def wants_compacting(self) -> bool:
        """Whether the tail has grown long enough."""
        return self._blocks >= COMPACT_BLOCKS

    def freeze(self) -> Frozen:
        """The living facts held still, for `compact`. On the event loop."""
        self._settle()
        self._blocks = 0
        return {scope: (self._shelf.position(scope), self.state.facts(scope)) for scope in self.scopes}

    def compact(self, frozen: Frozen) -> None:
        """Write what a restart begins with, and forget the blocks below. Blocking; the next commit makes it last."""
        with self._compacting:
            self._shelf.compact(frozen, keep=False)
            self._compacted = frozen

    def _settle(self) -> None:
        """Bring the index up to a compaction that ran in a thread; the index belongs to the loop."""
        if self._compacted:
            self._shelf.compacted(self._compacted, keep=False)
            self._compacted = {}
