"""A job's model on the cloud's disk: what the next round starts from, and how a round's mean moves it.

The state of the server's optimiser lies beside the weights and goes on with them: one entry of the journal names both.

Where weights travel compressed there are two: the *weights*, and what the nodes have, which follows them by changes
that were compressed. The change of a round is taken from what the nodes have, so nothing that a codec left out is lost.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.journal.facts import JobAdvanced
from msrt.journal.state import Job
from msrt.learning.compress import change, open_codec
from msrt.learning.control import Shares, moved_with_control
from msrt.learning.events import Finish
from msrt.learning.optimise import moved
from msrt.learning.vector import Vector, peek
from msrt.protocol.checksum import quick
from msrt.protocol.messages import Change
from msrt.training.settings import JobConfig
from msrt.training.weights import carries, checksum
from msrt.world.world import by_size

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["Checkpoint"]

log = structlog.get_logger()
CHAIN: Final = 8
"""Changes at most that a node may catch up with; beyond them, or where they are no smaller, the weights themselves."""


class Checkpoint:
    """One job's. `weights` and `served` are digests; `data` is what `served` names."""

    def __init__(self, training: Training, job: str, config: JobConfig) -> None:
        self._t, self._job, self._config = training, job, config
        self.weights = self.served = self.memory = self._counts = ""
        self.chain: tuple[Change, ...] = ()
        self.older: tuple[str, ...] = ()
        self.data: Buffer = b""
        self._weights: Buffer = b""
        """What `weights` names, where that is at hand."""
        self._delta: Buffer = b""
        """The last change, where it is at hand."""
        self.checksum = ""
        """Of the elements of `data`, where they do not ride with a round's opening."""
        self._next: tuple[Buffer, Buffer, Buffer, str] = b"", b"", b"", ""
        """`data`, weights, change and checksum of the version that waits for the journal."""
        self.counted: dict[str, int] = {}
        """Where late updates count: the newest round that was counted of each node."""

    @property
    def carried(self) -> tuple[Buffer, ...]:
        """What rides with a round's opening; without the last change at hand, after a restart, nothing does."""
        return () if self.chain and not self._delta else carries(self.data, self._delta)

    @property
    def travels(self) -> int:
        """Bytes that an edge fetches of it for a round: the last change, or the weights."""
        changed = self._t.artifacts.size(self.chain[-1].delta) if self.chain else None
        return len(self.data) if changed is None else changed

    async def begin(self, weights: str) -> None:
        """With the first weights."""
        self.weights = self.served = weights
        self.data = await self._t.artifacts.read(weights)
        self.checksum = await self._sum(self.data)

    async def resume(self, job: Job) -> None:
        """From the journal's last word. What nodes have is not synced: where a power failure took it, they get the
        weights themselves. Raises NotFound, Corrupt.
        """
        fact = job.advanced
        assert fact is not None
        try:
            data = await self._t.artifacts.read(fact.served or fact.weights)
        except (errors.NotFound, errors.Corrupt) as error:
            if not fact.served:
                raise
            log.warning("job.served_lost", job=self._job, round=fact.round, error=error.text)
            fact = msgspec.structs.replace(fact, served="", chain=())
            data = await self._t.artifacts.read(fact.weights)
        self._take(fact, data)
        self.checksum = await self._sum(data)
        if fact.counted:
            self.counted = msgspec.json.decode(await self._t.artifacts.read(fact.counted), type=dict[str, int])

    def _take(self, fact: JobAdvanced, data: Buffer) -> None:
        self.weights, self.served, self.data = fact.weights, fact.served or fact.weights, data
        self.chain, self.older, self.memory, self._counts = fact.chain, fact.older, fact.memory, fact.counted

    async def advance(self, number: int, mean: Vector, outcome: Finish, shares: Shares | None = None) -> JobAdvanced:
        """What the journal shall say of a round with this mean. All that it names is on disk then.

        `shares` is for controls beside the model (SCAFFOLD).
        """
        t, down, server = self._t, self._config.links.down, self._config.server
        before, state = await self._exact(), await t.artifacts.read(self.memory) if self.memory else b""
        rate = server.rate(number - 1, self._config.rounds)
        step = moved if shares is None else partial(moved_with_control, shares=shares)
        size, take = len(before) + len(state), t.vectors.take
        step = partial(step, room=take(len(before)))
        new, state = await by_size(t.world.offload, size, step, server.recipe, before, state, mean, rate)
        kept = t.artifacts.put_bytes(new), self._maybe(state)
        chain, data = self.chain, new
        delta: Buffer = b""
        if down == "fp32":
            weights, memory, sum_ = await asyncio.gather(*kept, self._sum(new))
            served = weights
        else:
            data = take(len(before))
            follow = self._follow(number, new, down, data)
            weights, memory, (served, change, delta, sum_) = await asyncio.gather(*kept, follow)
            chain = (*chain, change)[-min(CHAIN, len(data) // max(len(delta), 1) - 1) :]
        fact = JobAdvanced(
            self._job, number, weights, outcome.metrics, tuple(outcome.included), t.world.wall(),
            "" if served == weights else served, (self.weights, *self.older)[: self._config.checkpoints - 1], chain,
            memory, await self._count(number, outcome),
        )  # fmt: skip
        self._next = data, new, delta if chain else b"", sum_
        return fact

    async def _follow(
        self, number: int, weights: Buffer, codec: str, room: memoryview
    ) -> tuple[str, Change, Buffer, str]:
        """What nodes have after this change, made in the room and kept: its digest, the change, its payload, and the
        checksum of what they have.
        """
        offload, keep = self._t.world.offload, self._t.artifacts.put_bytes
        delta, sum_ = await by_size(offload, len(weights), _change, self.data, weights, codec, number, room)
        digest, served = await asyncio.gather(keep(delta), keep(room, sync=False))
        return served, Change(self.served, digest, codec), delta, sum_

    async def _sum(self, data: Buffer) -> str:
        return "" if carries(data) else await self._t.world.offload(checksum, data)

    async def _maybe(self, state: Buffer) -> str:
        return await self._t.artifacts.put_bytes(state) if state else ""

    async def _exact(self) -> Buffer:
        """The weights, which are not quite what nodes have where those get changes."""
        if self.weights == self.served:
            return self.data
        return self._weights or await self._t.artifacts.read(self.weights)

    async def _count(self, number: int, outcome: Finish) -> str:
        pace = self._config.pace
        if not pace.keeps_late:
            return ""
        since = pace.since(number + 1)
        counted = {node: round_ for node, round_ in self.counted.items() if round_ >= since}
        newest = {node: rounds[-1] for node, rounds in outcome.late.items()} | dict.fromkeys(outcome.included, number)
        for node, round_ in newest.items():
            counted[node] = max(round_, counted.get(node, 0))
        self.counted = dict(sorted(counted.items()))
        return await self._t.artifacts.put_bytes(msgspec.json.encode(self.counted))

    async def commit(self, fact: JobAdvanced) -> None:
        """The journal has it: what came before is no longer needed."""
        held = self.digests
        for room in {id(room): room for room in (self.data, self._weights)}.values():
            self._t.vectors.give(room)
        data, self._weights, self._delta, self.checksum = self._next
        self._take(fact, data)
        gone = sorted(held - self.digests)
        await self._t.artifacts.drop(*gone, reuse=True)

    @property
    def digests(self) -> set[str]:
        """All that it keeps on disk."""
        named = {
            self.weights,
            self.served,
            self.memory,
            self._counts,
            *self.older,
            *(change.delta for change in self.chain),
        }
        return named - {""}


def _change(served: Buffer, weights: Buffer, codec: str, number: int, room: memoryview) -> tuple[Buffer, str]:
    """The payload of what changed since what the nodes have; what they have after it is made in the room. And the
    checksum of that. Blocking.
    """
    layout, start = peek(served)
    room[:start] = served[:start]
    flats = (np.frombuffer(data, "<f4", offset=start) for data in (served, weights, room))
    have, wanted, moved = flats
    return change(open_codec(codec, layout), have, wanted, number, moved), quick(room[start:])
