"""The curves of all jobs: a line for each round, what the end showed, and what the rounds add up to.

A round's line is written before the journal says that the round is over: a round that is done again after a crash
writes its line again, and no round of the journal is without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from msrt.learning.notes import Judged
from msrt.world.world import Store

__all__ = ["Curves", "Totals"]

END: Final = "end"
NODES: Final = "nodes"
MOST: Final = 10_000
"""Nodes of a job whose word is kept, those of the newest rounds."""
Offload = Callable[..., Any]


class Totals(msgspec.Struct, frozen=True):
    """Of all rounds of a job; `last` is the newest line, `best` the highest accuracy."""

    rounds: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    best: float | None = None
    last: dict[str, Any] = {}

    def and_then(self, line: dict[str, Any]) -> Totals:
        """With the line of the next round."""
        known = [value for value in (self.best, line.get("accuracy")) if value is not None]
        return Totals(
            self.rounds + 1,
            self.seconds + line["seconds"],
            self.bytes_up + line["bytes_up"],
            self.bytes_down + line["bytes_down"],
            max(known, default=None),
            line,
        )


class Curves:
    """Lines on `store`, by job and round."""

    def __init__(self, store: Store, offload: Offload) -> None:
        self._store, self._offload = store, offload
        self._totals: dict[str, Totals] = {}
        self._judged: dict[str, dict[str, Judged]] = {}
        self._turn = asyncio.Lock()

    async def add(self, job: str, number: int, line: dict[str, Any]) -> None:
        """Keep a round's line, in the place of the one that it had."""
        sums = self.totals(job)
        if number > sums.last.get("round", 0):
            self._totals[job] = sums.and_then(line)
        else:
            self._totals.pop(job)
        await self._put(job, f"{number:06d}", line)

    async def judge(self, job: str, found: Mapping[str, Judged]) -> None:
        """Keep what nodes said of the model, each its newest word; durable with the round's line."""
        table = {**self.judged(job), **found}
        if len(table) > MOST:
            newest = sorted(table.items(), key=lambda entry: entry[1].round)[-MOST:]
            table = dict(newest)
        self._judged[job] = table
        self._store.put(f"{job}/{NODES}", await self._offload(msgspec.json.encode, table))

    def judged(self, job: str) -> dict[str, Judged]:
        """The newest word of each node; read from disk once."""
        known = self._judged.get(job)
        if known is None:
            found = dict(self._store.scan(f"{job}/{NODES}")).get(f"{job}/{NODES}")
            known = self._judged[job] = msgspec.json.decode(found, type=dict[str, Judged]) if found else {}
        return known

    async def end(self, job: str, **found: object) -> None:
        """Add to what the job's end showed."""
        await self._put(job, END, self.ended(job) | found)

    async def forget(self, job: str) -> None:
        """The job was removed. Raises DiskFull."""
        for key, _ in self._store.scan(f"{job}/"):
            self._store.put(key, None)
        self._totals.pop(job, None)
        self._judged.pop(job, None)
        async with self._turn:
            await self._offload(self._store.commit)

    async def _put(self, job: str, key: str, line: dict[str, Any]) -> None:
        self._store.put(f"{job}/{key}", msgspec.json.encode(line))
        async with self._turn:
            await self._offload(self._store.commit)

    def rounds(self, job: str, after: int = 0) -> list[dict[str, Any]]:
        """The lines of the rounds that came after this one, in order."""
        found = ((key.rpartition("/")[2], value) for key, value in self._store.scan(f"{job}/"))
        return [msgspec.json.decode(value) for number, value in found if number.isdigit() and int(number) > after]

    def ended(self, job: str) -> dict[str, Any]:
        """What its end showed so far."""
        found = dict(self._store.scan(f"{job}/{END}")).get(f"{job}/{END}")
        return msgspec.json.decode(found) if found else {}

    def totals(self, job: str) -> Totals:
        """The sums; read from disk once."""
        found = self._totals.get(job)
        if found is None:
            found = Totals()
            for line in self.rounds(job):
                found = found.and_then(line)
            self._totals[job] = found
        return found
