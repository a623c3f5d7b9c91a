"""One exchange of keys of an open round, performed: the machine's words go to devices, the sum's masks come off.

What is decided is in msrt.learning.secure_aggregation.server; what is added, in msrt.learning.rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec
import structlog

from msrt import errors
from msrt.hop import Peer
from msrt.learning.secure_aggregation import Fixed
from msrt.learning.secure_aggregation import events as se
from msrt.learning.secure_aggregation.masked import Masked, MaskedSum
from msrt.learning.secure_aggregation.server import SecureServer
from msrt.learning.secure_aggregation.unmask import unmask
from msrt.learning.vector import Layout, Vector
from msrt.protocol.messages import (
    Message,
    RoundOpen,
    Secured,
    SecureKeys,
    SecureOut,
    SecureReveal,
    SecureShares,
    UpdateMeta,
)
from msrt.world.world import World

__all__ = ["Exchange", "Said", "named"]

log = structlog.get_logger()
Said = SecureKeys | SecureShares | SecureReveal | SecureOut
SETUP: Final = 0.25
"""Share of a round in which keys are exchanged."""
REVEAL: Final = 0.1
REVEAL_S: Final = 5.0
"""Survivors have that share of a round to say their shares, and at least so many seconds."""
LAST: Final = 0.9
"""After that share of a round no mask comes off any more: the sum must still reach the cloud."""


def named(message: RoundOpen, me: str, attempt: int) -> RoundOpen:
    """The round as devices hear of it, where it is a secure one: its exchange has a name that no other ever has."""
    plan = message.plan
    if plan.secure is None:
        return message
    session = f"{message.job}/{message.round}.{plan.step}/{me}/{attempt}"
    secure = msgspec.structs.replace(plan.secure, session=session)
    return msgspec.structs.replace(message, plan=msgspec.structs.replace(plan, secure=secure))


class Exchange:
    """Of one round of one edge. `exclude` is told of devices whose update cannot be in the sum."""

    def __init__(  # noqa: PLR0913 - what one round knows
        self,
        world: World,
        cloud: bytes,
        message: RoundOpen,
        layout: Layout,
        *,
        expected: Iterable[str],
        left: float,
        settled: float,
        devices: Callable[[], dict[str, Peer]],
        exclude: Callable[[str, str], Awaitable[None]],
    ) -> None:
        plan = message.plan.secure
        assert plan is not None
        now = self._began = world.now()
        self._world, self._plan, self._most, self._left = world, plan, message.max_samples or 1 << 20, left
        self._devices, self._exclude = devices, exclude
        seed = world.random.randbytes(32)
        self.codec = Masked(layout, plan.bits)
        self.sum = MaskedSum(self.codec)
        self._machine = SecureServer(message.job, plan, expected, cloud, seed, now, now + SETUP * left, settled)
        self._lock = asyncio.Lock()
        self._work: asyncio.Future[se.Unmask | se.GiveUp] = asyncio.get_running_loop().create_future()
        self._tasks: dict[asyncio.Task[None], None] = {}

    def admit(self, node: str, meta: UpdateMeta) -> None:
        """May this update come? Raises StreamCancelled for one of another exchange, BadUpdate where it is too late."""
        if meta.error:
            return
        if meta.secure.session != self._machine.session:
            raise errors.StreamCancelled("the update is not masked for the exchange of keys that is open here")
        if node not in self._machine.inside:
            raise errors.BadUpdate("the device is not in the exchange of keys")

    # --- what happens ----------------------------------------------------------------------------------------------

    def said(self, node: str, message: Said) -> None:
        """A device says its part."""
        if message.session == self._machine.session:
            self._spawn(self._handle(se.Said(node, message)))

    def joined(self, node: str) -> None:
        """A participant is (again) here."""
        self._spawn(self._handle(se.Joined(node)))

    def left(self, node: str) -> None:
        self._spawn(self._handle(se.Left(node)))

    def tick(self, now: float) -> None:
        """Time passes."""
        wake = self._machine.wake
        if wake is not None and now >= wake and not self._lock.locked():
            self._spawn(self._handle(se.Tick()))

    def close(self) -> None:
        """The round is over here."""
        self._work.cancel()
        for task in self._tasks:
            task.cancel()

    async def mean(self, meta: UpdateMeta, lock: asyncio.Lock) -> tuple[Vector, UpdateMeta]:
        """The mean of the updates of these nodes, and what the sum says of them; `lock` is held by who adds to it.

        Raises BadUpdate: nobody ever knows.
        """
        now = self._world.now()
        until = min(now + max(REVEAL_S, REVEAL * self._left), max(now, self._began + LAST * self._left))
        await self._handle(se.Sealed(frozenset(meta.nodes), until))
        done = await self._work
        if isinstance(done, se.GiveUp):
            raise errors.BadUpdate(done.reason)
        began = self._world.now()
        plan, count = self._plan, len(self._machine.ring)
        fixed = Fixed(self.codec.size, count, self._most, plan.clip, plan.span, plan.bits)
        async with lock:
            await self._world.offload(unmask, self.sum.total, done.work)
            mean, total = await self._world.offload(fixed.decode, self.sum.total)
        dropped = len(done.work.dropped)
        log.info("secure.unmasked", session=plan.session, nodes=len(meta.nodes), dropped=dropped,
                 seconds=round(self._world.now() - began, 3))  # fmt: skip
        metrics = meta.metrics | total.metrics | {"clipped": total.clipped / len(meta.nodes)}
        return mean, msgspec.structs.replace(meta, metrics=metrics, secure=Secured(samples=total.samples))

    # --- what follows ----------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.result()

    async def _handle(self, event: se.Event) -> None:
        async with self._lock:
            for action in await self._world.offload(self._machine.handle, event, self._world.now()):
                await self._perform(action)

    async def _perform(self, action: se.Action) -> None:
        match action:
            case se.Tell(node, message):
                peer = self._devices().get(node)
                if peer is not None and peer.live:
                    self._send(peer, message)
                await asyncio.sleep(0)
            case se.Exclude(node, reason):
                await self._exclude(node, reason)
            case se.Unmask() | se.GiveUp():
                await self._settle(action)

    def _send(self, peer: Peer, message: Message) -> None:
        try:
            peer.send(message)
        except (errors.Disconnected, errors.Overloaded):
            pass  # it hears it when it is back
        except errors.FrameTooLarge as error:
            log.warning("secure.too_large", device=peer.name, what=type(message).__name__, error=error.text)

    async def _settle(self, action: se.Unmask | se.GiveUp) -> None:
        if isinstance(action, se.GiveUp):
            log.warning("secure.given_up", session=self._plan.session, why=action.reason)
            for node in sorted(self._machine.keys):
                await self._exclude(node, action.reason)
        if not self._work.done():
            self._work.set_result(action)
