"""One open round of the whole tree: who was told, what came, how it ended. What is decided is in learning.rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.learning import events as e
from msrt.learning.aggregate import check
from msrt.learning.compress import Codec, open_codec
from msrt.learning.pacing import Durations
from msrt.learning.rounds import GlobalRound
from msrt.learning.rules import Rule, Total
from msrt.learning.vector import Layout, Vector, room_of
from msrt.protocol.messages import RoundClosed, RoundOpen, UpdateMeta
from msrt.training.spool import Spool
from msrt.world.world import UNCOUNTED, by_size, undisturbed

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["OpenRound"]

log = structlog.get_logger()
AWAY_S: Final = 3.0
"""The devices of a dead edge have that long to come back at another one."""
TOLD_AT_ONCE: Final = 6000
"""Participants in one message: their ids take half of a header."""
TOLD_WITH_WEIGHTS: Final = 1000
"""Participants in a message that carries weights as well: both fit the smallest packet."""
TICK_S: Final = 0.05


class OpenRound:
    """`training` is the coordinator, `participants` are node ids with their index, `carried` rides with the opening."""

    def __init__(
        self, training: Training, message: RoundOpen, machine: GlobalRound, participants: dict[str, int],
        layout: Layout, durations: Durations, rule: Rule, carried: tuple[Buffer, ...] = (),
    ) -> None:  # fmt: skip
        self._carried = carried
        self._t, self.message, self.machine, self.indices = training, message, machine, participants
        self.opened = training.world.now()
        self.deadline = self.opened + message.deadline_s
        self._codecs = open_codec(message.compression, layout), open_codec(message.plan.upward, layout)
        self._spool = Spool(training.world, self._codecs[False].bytes)
        self._room = training.vectors.take(room_of(layout))
        self._total = Total(rule, machine.size, self._spool.release, self._room)
        self.bytes_up = 0
        self.ratio: float | None = None
        """Bytes of one update, its meta included, against the same vector in float32."""
        self.over: asyncio.Future[e.Finish | e.Abandon] = asyncio.get_running_loop().create_future()
        self._durations = durations
        self._payloads: dict[str, tuple[UpdateMeta, Buffer]] = {}
        """By key: what came and is not yet added or refused; singles wait on the disk."""
        self._lock, self._closed = asyncio.Lock(), False
        self._keys = 0
        self._away: dict[str, float] = {}
        """Participants that no edge has, since when."""
        self._told: dict[str, set[str]] = {}
        """Edge to the participants that it was told of."""

    @property
    def open(self) -> bool:
        return not self.over.done()

    async def run(self) -> e.Finish | e.Abandon:
        """Tell everybody, and wait for its end."""
        self.announce(self._t.edges())
        ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            return await self.over
        finally:
            ticker.cancel()

    # --- telling -------------------------------------------------------------------------------------------------

    def announce(self, peers: Sequence[Peer]) -> None:
        """Tell edges that the round is open."""
        if not self.open:
            return
        for peer in peers:
            self._told[peer.node] = set()
            edge = self._t.fleet.edges.get(peer.node)
            if edge is not None:
                self._tell(peer, edge.devices.keys())

    def _tell(self, peer: Peer, devices: Collection[str]) -> None:
        """An edge hears of the participants that are its own: of all of them no message could speak."""
        told = self._told.setdefault(peer.node, set())
        fresh = sorted(node for node in self.indices.keys() & devices if node not in told)
        left = max(0.1, self.deadline - self._t.world.now())
        while fresh and peer.live:
            some, fresh = fresh[:TOLD_AT_ONCE], fresh[TOLD_AT_ONCE:]
            indices = {node: self.indices[node] for node in some}
            frames = self._carried if len(some) <= TOLD_WITH_WEIGHTS else ()
            peer.send(msgspec.structs.replace(self.message, deadline_s=left, participants=indices), frames)
            told.update(some)

    def say_closed(self, outcome: e.Finish, since: int) -> None:
        """It is checkpointed. `since`: the oldest round whose updates may count in the next one."""
        for peer in self._t.edges():
            if peer.live:
                told, edge = self._told.get(peer.node, set()), self._t.fleet.edges.get(peer.node)
                theirs = sorted(told.intersection(outcome.included))[:TOLD_AT_ONCE]
                near = told.union(edge.devices if edge else ()).intersection(outcome.late)  # asked in a round before
                late = {node: outcome.late[node][-1] for node in sorted(near)[:TOLD_AT_ONCE]}
                round_ = self.message.round
                peer.send(RoundClosed(self.message.job, round_, tuple(theirs), late=late, since=since))

    def devices_changed(self, devices: Collection[str]) -> None:
        """Who is away for long is not waited for once the quorum is met; one that only changes its edge is."""
        if not self.open:
            return
        now = self._t.world.now()
        moved: dict[str, list[str]] = {}
        for node in sorted(self.machine.participants.intersection(devices)):
            home = self._t.fleet.home(node)
            if home is None:
                self._away.setdefault(node, now)
                continue
            if node not in self._told.get(home.node, ()) and not self._summed(node):
                moved.setdefault(home.node, []).append(node)
            if self._away.pop(node, None) is not None or node in self.machine.gone:
                self._later(self.machine.handle(e.Joined(node), now))
        for peer in self._t.edges() if moved else ():
            self._tell(peer, moved.get(peer.node, ()))

    def _summed(self, node: str) -> bool:
        """Is it in a sum of masked updates? In another one it would cost all the others that are in that."""
        return self.message.plan.secure is not None and node in self.machine.included

    # --- updates -------------------------------------------------------------------------------------------------

    def wants(self, meta: UpdateMeta) -> bool:
        """Is this update one of the open round, or late and still welcome?"""
        now, since = self.message.round, self.message.plan.since
        return self.open and (meta.round == now or 0 < since <= meta.round < now)

    def codec(self, meta: UpdateMeta) -> Codec:
        """Of a region's sum, or of a device's update."""
        return self._codecs[meta.is_sum]

    async def arrived(self, meta: UpdateMeta, payload: Buffer) -> None:
        """A whole update. Raises BadUpdate to tell its sender."""
        if not self.wants(meta):
            return
        norm, fault = 0.0, meta.error
        if not fault:
            try:
                codec = self.codec(meta)
                codec.named(meta.encoding)
                norm = await by_size(self._t.world.offload, len(payload), check, payload, codec)
            except errors.BadUpdate as error:
                fault = error.text
        self._keys += 1
        key = str(self._keys)
        if not fault and not meta.is_sum:
            room, payload = payload, await self._spool.keep(key, payload)
            if payload is not room:
                self._t.rooms.give(room)
        self._payloads[key] = (meta, payload)
        self._note(meta, payload)
        actions = self.machine.handle(e.Arrived(key, meta, norm, fault), self._t.world.now())
        await self._perform(actions)
        refused = [action for action in actions if isinstance(action, e.Refuse)]
        if refused and not meta.error:
            raise errors.BadUpdate(refused[0].error)

    def _note(self, meta: UpdateMeta, payload: Buffer) -> None:
        """Its bytes and its time, for report and pace."""
        self.bytes_up += len(payload)
        if payload:
            whole = len(payload) + len(msgspec.msgpack.encode(meta))
            self.ratio = round(whole / (4 * self.machine.size), 4)
            if meta.round == self.message.round:
                self._durations.add(self._t.world.now() - self.opened)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._t.world.now()
            for node in [n for n, since in self._away.items() if now - since > AWAY_S]:
                del self._away[node]
                await self._perform(self.machine.handle(e.Left(node), now))
            await self._perform(self.machine.handle(e.Tick(), now))

    def _later(self, actions: list[e.RoundAction]) -> None:
        if actions:
            task = asyncio.get_running_loop().create_task(self._perform(actions))
            task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _perform(self, actions: list[e.RoundAction]) -> None:
        for action in actions:
            match action:
                case e.Add(key, weight, scale):
                    await self._add(key, weight, scale)
                case e.Drop(key, _) | e.Refuse(key, _, _):
                    self._payloads.pop(key, None)
                    self._spool.drop(key)
                    if isinstance(action, e.Refuse):
                        log.warning("round.update_refused", job=self.message.job, nodes=action.nodes, why=action.error)
                case e.Finish() | e.Abandon():
                    if not self.over.done():
                        self.over.set_result(action)

    async def _add(self, key: str, weight: float, scale: float) -> None:
        meta, payload = self._payloads.pop(key)
        await undisturbed(self._added(key, meta, payload, weight, scale))

    async def _added(self, key: str, meta: UpdateMeta, payload: Buffer, weight: float, scale: float) -> None:
        add = partial(self._total.add, is_sum=meta.is_sum)
        async with self._lock:
            if self._closed:
                return
            size = 4 * self.machine.size if meta.is_sum else UNCOUNTED  # singles lie on the disk
            done = await by_size(self._t.world.offload, size, add, payload, self.codec(meta), weight, scale)
        if done:
            self._spool.drop(key)
            self._t.rooms.give(payload)

    async def mean(self) -> Vector:
        """What the round comes to, valid until it is closed. Raises BadUpdate when nothing was added."""
        return await undisturbed(self._mean())

    async def _mean(self) -> Vector:
        async with self._lock:
            mean: Vector = await self._t.world.offload(self._total.mean)
        return mean

    async def close(self) -> None:
        """It is checkpointed, or given up."""
        self._payloads.clear()
        self._spool.close()
        async with self._lock:
            self._closed = True
        self._t.vectors.give(self._room)
