"""A job's history and the draw of its open round, on disk: a cloud that is killed asks the same nodes again.

A round's rows are written before the journal says that the round is over. So each holds what was known before as well:
who does the round again begins with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from msrt.learning.history import History, Seen
from msrt.learning.ledger import Spent
from msrt.protocol import wire
from msrt.world.world import Store

__all__ = ["Draw", "Records"]

DRAW: Final = "draw"
NODE: Final = "node/"
SPENT: Final = "spent/"
LIMIT: Final = 4 << 20
"""Of the largest draw: some thousand ids."""


class Draw(msgspec.Struct, frozen=True):
    """Whom a round asks: node to its place among all that could be, and how many those are."""

    round: int
    nodes: dict[str, int]
    count: int


NONE: Final[Mapping[str, Spent]] = {}


class Records:
    """One job's."""

    def __init__(self, store: Store, offload: Callable[..., Any], job: str) -> None:
        self.history = History()
        self._store, self._offload, self._job = store, offload, job
        self._draw: Draw | None = None
        self.spent: dict[str, Spent] = {}
        """What nodes of a private job spent, each by itself."""

    async def resume(self, settled: int) -> None:
        """Read what a cloud before this one wrote; `settled` is the last round that the journal knows."""
        await self._offload(self._read, settled)

    def _read(self, settled: int) -> None:
        for key, value in self._store.scan(f"{self._job}/{NODE}"):
            known = [row for row in wire.unpack(value, tuple[Seen, ...]) if row.asked <= settled]
            if known:
                self.history.settle({key.rpartition("/")[2]: known[-1]})
        for key, value in self._store.scan(f"{self._job}/{SPENT}"):
            self.spent[key.rpartition("/")[2]] = wire.unpack(value, Spent)
        for _, value in self._store.scan(f"{self._job}/{DRAW}"):
            self._draw = wire.unpack(value, Draw, limit=LIMIT)

    def drawn(self, number: int) -> Draw | None:
        """Whom that round asked already."""
        return self._draw if self._draw is not None and self._draw.round == number else None

    async def draw(self, draw: Draw, spent: Mapping[str, Spent] = NONE) -> None:
        """Remember whom a round asks, and what they have spent then, before anybody hears of it. Raises DiskFull."""
        self._draw = draw
        await self._write({DRAW: wire.pack(draw), **_rows(spent)})

    async def spend(self, spent: Mapping[str, Spent]) -> None:
        """These spent more than was counted. Raises DiskFull."""
        if spent:
            await self._write(_rows(spent))

    async def redraw(self) -> None:
        """The round was given up: the next try may ask others. Raises DiskFull."""
        if self._draw is not None:
            self._draw = None
            await self._write({DRAW: None})

    async def add(self, rows: Mapping[str, Seen]) -> None:
        """What a round showed, on disk; to be settled once the journal says that it is over. Raises DiskFull."""
        await self._write(await self._offload(self._packed, rows))

    def _packed(self, rows: Mapping[str, Seen]) -> dict[str, bytes | None]:
        packed: dict[str, bytes | None] = {}
        for node, row in rows.items():
            before = self.history.seen.get(node)
            packed[NODE + node] = wire.pack((row,) if before is None else (before, row))
        return packed

    async def forget(self) -> None:
        """The job is over. Raises DiskFull."""
        mine = f"{self._job}/"
        rows = {key.removeprefix(mine): None for key, _ in self._store.scan(mine)}
        if rows:
            await self._write(rows)

    async def _write(self, rows: Mapping[str, bytes | None]) -> None:
        for key, value in rows.items():
            self._store.put(f"{self._job}/{key}", value)
        await self._offload(self._store.commit)


def _rows(spent: Mapping[str, Spent]) -> dict[str, bytes]:
    return {SPENT + node: wire.pack(row) for node, row in spent.items()}
