"""Where blocks lie: one store log per scope, an index in memory, and under them the facts of a snapshot.

log   block/SCOPE      blocks in order; an empty one says "the blocks after my `prev` were never committed"
log   snapshot/SCOPE   the chunks of the newest snapshot
key   scope/SCOPE      which offset that snapshot stands for, and where its chunks are
key   journal          the log's id and epochs (see `log.py` and `replica.py`)
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from msrt.errors import Corrupt, MalformedFrame
from msrt.journal.block import BLOCK_BYTES, BLOCK_ENTRIES, Block, chunks_of, entries_of
from msrt.journal.facts import unpack_entry
from msrt.journal.state import Facts, State
from msrt.world.world import Store

__all__ = ["Frozen", "Shelf"]

PAGE: Final = 32
"""Records read at once: at worst this many full blocks are in memory."""

Frozen = dict[str, tuple[int, Facts]]
"""Per scope the offset and the living facts: a state held still while a thread writes it down."""


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """A scope's snapshot on disk."""

    offset: int = 0
    first: int = 0
    """Store offsets of its chunks, first to last; 0 and 0: none."""
    last: int = 0


class _Scope:
    """The index of one scope. `at` and `lasts` only grow at their ends; forgetting replaces them."""

    def __init__(self) -> None:
        self.mark = _Mark()
        self.at = array("q")
        """Store offset of each block."""
        self.lasts = array("q")
        """Journal offset of each block's last entry."""
        self.position = 0
        """Offset of the scope's last entry."""
        self.floor = 0
        """Blocks at or below it are gone: who is behind it needs the snapshot."""


class Shelf:
    """Reads and writes one journal's store. Writing touches memory until the caller commits the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scopes: dict[str, _Scope] = {}

    @property
    def positions(self) -> dict[str, int]:
        """Scope to the offset of its last entry."""
        return {name: scope.position for name, scope in self._scopes.items()}

    def position(self, scope: str) -> int:
        found = self._scopes.get(scope)
        return found.position if found else 0

    def floor(self, scope: str) -> int:
        """Blocks after this offset can be read; a reader behind it needs a snapshot."""
        found = self._scopes.get(scope)
        return found.floor if found else 0

    # --- starting ----------------------------------------------------------------------------------------------

    def load(self, state: State) -> None:
        """Fold everything that is on disk into a fresh state. Raises Corrupt."""
        for key, value in self._store.scan("scope/"):
            name = key.removeprefix("scope/")
            scope = self._scopes[name] = _Scope()
            scope.mark = msgspec.msgpack.decode(value, type=_Mark)
            try:
                self._load(name, scope, state)
            except (MalformedFrame, msgspec.MsgspecError) as error:
                raise Corrupt(
                    f"the journal's scope {name} is damaged: {error}", hint="restore the state directory from a copy"
                ) from error

    def _load(self, name: str, scope: _Scope, state: State) -> None:
        mark = scope.mark
        if mark.first:
            for _at, payload in self._pages(f"snapshot/{name}", mark.first - 1):
                for offset, entry in entries_of(payload):
                    state.apply(entry, offset)
            scope.position = mark.offset
        first = True
        for at, block in self._blocks(name):
            if first:
                scope.floor, first = block.prev, False
            if not block.payload:
                keep = bisect_right(scope.lasts, block.prev)
                del scope.at[keep:], scope.lasts[keep:]
            else:
                scope.at.append(at)
                scope.lasts.append(block.last)
        if first:
            scope.floor = mark.offset
        valid = frozenset(scope.at)
        for at, block in self._blocks(name):
            if block.prev > scope.position:
                break  # what lay between is not here: the master will send it again
            if at in valid and block.last > scope.position:
                for offset, data in block.packed:
                    if offset > scope.position:
                        state.apply(unpack_entry(data), offset)
                scope.position = block.last

    def _pages(self, log: str, after: int) -> Iterator[tuple[int, bytes]]:
        while records := self._store.read(log, after, PAGE):
            yield from records
            after = records[-1][0]

    def _blocks(self, name: str) -> Iterator[tuple[int, Block]]:
        for at, record in self._pages(f"block/{name}", 0):
            yield at, msgspec.msgpack.decode(record, type=Block)

    # --- writing -----------------------------------------------------------------------------------------------

    def write(self, block: Block) -> int:
        """Give a block to the store; it counts once `publish` was told, after the commit."""
        if block.scope not in self._scopes:
            self._store.put(f"scope/{block.scope}", msgspec.msgpack.encode(_Mark()))
        return self._store.append(f"block/{block.scope}", msgspec.msgpack.encode(block))

    def void(self, log: str, scope: str) -> None:
        """Take back the blocks written since `publish`: their commit failed, their writers were told so. The store
        will commit them some day nevertheless, and this together with them."""
        prev = self.position(scope)
        self._store.append(f"block/{scope}", msgspec.msgpack.encode(Block(log, 0, scope, prev, 0, 0, b"", b"")))

    def publish(self, block: Block, at: int) -> None:
        """A block is there to be read."""
        scope = self._scopes.setdefault(block.scope, _Scope())
        if not scope.at:
            scope.floor = max(scope.mark.offset, block.prev)
        scope.at.append(at)
        scope.lasts.append(block.last)
        scope.position = block.last

    def forget(self, scope: str) -> None:
        """Drop a scope that is followed no more."""
        for log in (f"block/{scope}", f"snapshot/{scope}"):
            self._trim_all(log)
        self._store.put(f"scope/{scope}", None)
        self._scopes.pop(scope, None)

    def _trim_all(self, log: str) -> None:
        last = 0
        for at, _ in self._pages(log, 0):
            last = at
        self._store.trim(log, last)

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self, scope: str, after: int) -> list[Block]:
        """The next blocks that hold entries after that offset, as many as make one full block. Empty at the end.

        Safe to call from a thread.
        """
        found = self._scopes.get(scope)
        if found is None:
            return []
        positions, lasts = found.at, found.lasts
        start = bisect_right(lasts, after)
        blocks: list[Block] = []
        entries = size = 0
        valid = positions[start : start + BLOCK_ENTRIES]
        if not valid:
            return []
        for at, record in self._pages(f"block/{scope}", valid[0] - 1):
            place = bisect_left(valid, at)
            if place == len(valid):
                break
            if valid[place] != at:
                continue
            block = msgspec.msgpack.decode(record, type=Block)
            entries += len(block.packed)
            size += len(block.payload)
            if blocks and (entries > BLOCK_ENTRIES or size > BLOCK_BYTES or block.epoch != blocks[0].epoch):
                break
            blocks.append(block)
            if place == len(valid) - 1:
                break
        return blocks

    # --- compacting --------------------------------------------------------------------------------------------

    def compact(self, frozen: Frozen, *, keep: bool) -> None:
        """Write a snapshot of each scope and forget the blocks below the previous one (`keep`) or below this one.

        Blocking; the caller then calls `compacted`, and commits.
        """
        for name, (offset, facts) in frozen.items():
            scope = self._scopes.get(name)
            if scope is None or scope.mark.offset >= offset:
                continue
            self._write_snapshot(name, offset, chunks_of(facts))
            floor = scope.mark.offset if keep else offset
            gone = bisect_right(scope.lasts, floor)
            if gone:
                self._store.trim(f"block/{name}", scope.at[gone - 1])

    def compacted(self, frozen: Frozen, *, keep: bool) -> None:
        """The compaction is in the store: forget what it trimmed."""
        for name, (offset, _facts) in frozen.items():
            scope = self._scopes.get(name)
            if scope is None or scope.mark.offset >= offset:
                continue
            floor = scope.mark.offset if keep else offset
            gone = bisect_right(scope.lasts, floor)
            if gone:
                scope.floor = scope.lasts[gone - 1]
                scope.at, scope.lasts = scope.at[gone:], scope.lasts[gone:]
            scope.mark = _Mark(offset, 1, 1)

    def adopt(self, scope: str, offset: int, chunks: list[bytes]) -> None:
        """A snapshot that came from the master takes the place of everything of a scope."""
        found = self._scopes.setdefault(scope, _Scope())
        if found.at:
            self._store.trim(f"block/{scope}", found.at[-1])
        found.at, found.lasts = array("q"), array("q")
        found.position = found.floor = offset
        found.mark = self._write_snapshot(scope, offset, chunks)

    def _write_snapshot(self, scope: str, offset: int, chunks: Iterable[bytes]) -> _Mark:
        log = f"snapshot/{scope}"
        places = [self._store.append(log, chunk) for chunk in chunks]
        if places:
            self._store.trim(log, places[0] - 1)
        mark = _Mark(offset, places[0] if places else 0, places[-1] if places else 0)
        self._store.put(f"scope/{scope}", msgspec.msgpack.encode(mark))
        return mark
