"""A device's part in secure aggregation: exchanges of keys with its edge, and the masks on its update.

What it trained is kept on its own disk until the round is over, so that another exchange (of an edge that died and is
back) can mask it anew; nothing but masked updates is ever sent. That it helped to unmask a sum of a round is on disk
before its shares leave: it never helps with a second one, for the difference of two sums shows who is in one alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.learning.secure_aggregation import Me, SecureClient
from msrt.learning.secure_aggregation.client import Leave, Ready, Say, Stage
from msrt.learning.secure_aggregation.client import Said as Heard
from msrt.learning.secure_aggregation.masked import ENCODING
from msrt.protocol import wire
from msrt.protocol.messages import RoundClosed, RoundOpen, Secured, SecureOut, SecurePlan, SecureReveal, UpdateMeta
from msrt.world.world import Store, World

__all__ = ["PLAIN", "Masking"]

log = structlog.get_logger()
PLAIN: Final = "fp32"
"""How the job's process hands its update to this one."""
SHOWN: Final = ("seconds", "update_bytes", "work")
"""What an edge may know of a single node: what it could measure itself. All else is in the sum."""


class _Plain(msgspec.Struct, frozen=True):
    """An update as it was trained, on this device's disk. `meta` has its samples and all its metrics."""

    meta: UpdateMeta
    digest: str


class _Turn(msgspec.Struct, frozen=True):
    """The exchange of one job that is going on."""

    client: SecureClient
    round: int
    step: int
    first_parent: str
    peer: Peer


class Masking:
    """All exchanges of one device, one a job. `keep` takes a masked update, to be sent until it is counted."""

    def __init__(
        self,
        world: World,
        store: Store,
        me: Me,
        artifacts: ArtifactStore,
        keep: Callable[[UpdateMeta, Buffer], Awaitable[None]],
    ) -> None:
        self._world, self._store, self._me, self._artifacts, self._keep = world, store, me, artifacts, keep
        self._turns: dict[str, _Turn] = {}
        self._plain = {key: wire.unpack(value, _Plain) for key, value in store.scan("plain/")}
        self._helped = {key: value.decode() for key, value in store.scan("helped/")}
        """By job and round: the exchange whose sum it helped to unmask."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pin()

    # --- rounds --------------------------------------------------------------------------------------------------

    def opened(self, message: RoundOpen, plan: SecurePlan, peer: Peer) -> None:
        """A round begins, or is announced again: say keys, once an exchange."""
        turn = self._turns.get(message.job)
        if turn is not None and turn.client.session == plan.session:
            if turn.client.stage is Stage.ANNOUNCED:
                self._say(peer, turn.client.keys)
            return
        helped = self._helped.get(_round(message.job, message.round, message.plan.step, plan.opening))
        if helped is not None and helped != plan.session:
            why = "it helped to unmask a sum of this round already"
            self._say(peer, SecureOut(message.job, plan.session, why))
            return
        client = SecureClient(self._me, message.job, plan, message.max_samples or 1 << 20)
        first = f"{peer.node}/{peer.session.peer_boot}"
        self._turns[message.job] = _Turn(client, message.round, message.plan.step, first, peer)
        self._say(peer, client.keys)

    def has(self, message: RoundOpen) -> bool:
        """Is what was trained in this round here?"""
        plain = self._plain.get(_key(message.job, message.round, message.plan.step))
        return plain is not None and self._artifacts.has(plain.digest)

    def masked_for(self, meta: UpdateMeta, message: RoundOpen) -> bool:
        """Is this update good for the round as it is open now? One that failed is, whatever the exchange."""
        plan = message.plan.secure
        return bool(meta.error) or plan is None or meta.secure.session == plan.session

    def said(self, message: Heard) -> None:
        """A word of the edge in an exchange. Not of the peer's: what has begun is finished though the link is lost."""
        turn = self._turns.get(message.job)
        if turn is not None and message.session == turn.client.session:
            self._spawn(self._handle(turn, message))

    async def trained(self, meta: UpdateMeta, payload: Buffer | Path) -> None:
        """The update is there: mask it as soon as the exchange allows. Raises DiskFull."""
        if isinstance(payload, Path):
            digest, _ = await self._artifacts.adopt(payload, sync=False)
        else:
            digest = await self._artifacts.put_bytes(payload, sync=False)
        key = _key(meta.job, meta.round, meta.step)
        self._plain[key] = plain = _Plain(meta, digest)
        self._pin()
        self._store.put(key, wire.pack(plain))
        await self._commit()
        turn = self._turns.get(meta.job)
        if turn is not None:
            async with self._lock(meta.job):
                await self._mask(turn)

    async def closed(self, message: RoundClosed) -> None:
        """The round is over: its keys and what was trained are forgotten."""
        ended = message.state not in ("running", "paused")
        turn = self._turns.get(message.job)
        if turn is not None and (ended or turn.round <= message.round):
            del self._turns[message.job]
        over = partial(_over, message.job, message.round, ended=ended)
        gone = [key for key in (*self._plain, *self._helped) if over(key)]
        digests = [self._plain[key].digest for key in gone if key in self._plain]
        for key in gone:
            self._plain.pop(key, None)
            self._helped.pop(key, None)
            self._store.put(key, None)
        if gone:
            self._pin()
            await self._commit()
        for digest in digests:
            await self._artifacts.drop(digest)

    # --- an exchange -----------------------------------------------------------------------------------------------

    def _lock(self, job: str) -> asyncio.Lock:
        return self._locks.setdefault(job, asyncio.Lock())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()

    async def _handle(self, turn: _Turn, message: Heard) -> None:
        async with self._lock(message.job):
            for action in await self._world.offload(turn.client.handle, message):
                match action:
                    case Say(SecureReveal() as told):
                        if await self._remember(turn):
                            self._say(turn.peer, told)
                    case Say(told):
                        self._say(turn.peer, told)
                    case Ready():
                        await self._mask(turn)
                    case Leave(reason):
                        log.warning("secure.left", job=message.job, round=turn.round, why=reason)

    async def _mask(self, turn: _Turn) -> None:
        """Once both are there: the masks and the update."""
        client = turn.client
        plain = self._plain.get(_key(client.job, turn.round, turn.step))
        if plain is None or client.stage is not Stage.READY or client.masked:
            return
        shown = {name: value for name, value in plain.meta.metrics.items() if name in SHOWN}
        meta = msgspec.structs.replace(
            plain.meta, nodes={self._me.node: 1}, first_parent=turn.first_parent, encoding=ENCODING, metrics=shown,
            secure=Secured(client.session),
        )  # fmt: skip
        try:
            data = await self._artifacts.read(plain.digest)
            flat = np.frombuffer(data, "<f4")
            samples = plain.meta.nodes[self._me.node]
            payload: Buffer = await self._world.offload(client.mask, flat, samples, plain.meta.metrics)
        except errors.MsrtError as error:
            log.warning("secure.not_masked", job=client.job, round=turn.round, error=errors.words_of(error))
            await self._keep(msgspec.structs.replace(meta, error=f"{error.code}: {error.text}"[:500]), b"")
            return
        meta.metrics["update_bytes"] = float(len(payload))
        await self._keep(meta, payload)

    async def _remember(self, turn: _Turn) -> bool:
        """That shares of this round are about to leave; where that cannot be written down they do not."""
        client = turn.client
        key = _round(client.job, turn.round, turn.step, client.plan.opening)
        self._helped[key] = client.session
        self._store.put(key, client.session.encode())
        return await self._commit()

    # --- within ----------------------------------------------------------------------------------------------------

    def _say(self, peer: Peer, message: msgspec.Struct) -> None:
        try:
            peer.send(message)  # type: ignore[arg-type]  # one of the four that a device says
        except (errors.Disconnected, errors.Overloaded) as error:
            log.info("secure.not_said", what=type(message).__name__, error=error.text)

    def _pin(self) -> None:
        self._artifacts.pin((plain.digest for plain in self._plain.values()), "plain")

    async def _commit(self) -> bool:
        try:
            await self._world.offload(self._store.commit)
        except errors.DiskFull as error:
            log.warning("secure.not_on_disk", error=error.text)
            return False
        return True


def _key(job: str, round_: int, step: int) -> str:
    return f"plain/{job}/{round_:08d}.{step}"


def _round(job: str, round_: int, step: int, opening: int) -> str:
    return f"helped/{job}/{round_:08d}.{step}.{opening}"


def _over(job: str, round_: int, key: str, *, ended: bool) -> bool:
    _, of, number = key.split("/")
    return of == job and (ended or int(number.partition(".")[0]) <= round_)
