"""One open round of a region: what came, and what the cloud should have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.learning.aggregate import NormGuard, RunningSum
from msrt.learning.compress import open_codec
from msrt.learning.events import Joined
from msrt.learning.pacing import Durations
from msrt.learning.rounds import RegionRound, Stretch, Terms
from msrt.learning.rules import Robust, open_rule
from msrt.learning.secure_aggregation.masked import MaskedSum
from msrt.learning.vector import Layout, Vector
from msrt.protocol.messages import Plan, RoundOpen, TrainProgress, UpdateMeta
from msrt.training.spool import Spool
from msrt.world.world import FEW, UNCOUNTED, by_size, undisturbed
from msrt_edge.secure import Exchange

__all__ = ["TICK_S", "Model", "OpenRound", "guard_of", "terms_of"]

TICK_S: Final = 0.1
"""Of a round's clock, and of what the cloud hears of its progress."""
Offload = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Model:
    """What a region knows of a job's model, over all rounds."""

    layout: Layout
    guard: NormGuard
    durations: Durations
    asked: dict[int, set[str]] = field(default_factory=dict)
    """Whom each round asked here, while its updates may count: a late one comes when others are asked."""

    held: set[str] = field(default_factory=set)
    """Artifacts of the last round's weights."""

    def outdated(self, message: RoundOpen) -> list[str]:
        """What of them no device of this round asks for: dropped at once it never reaches the disk."""
        wanted = {message.weights, *(change.delta for change in message.chain)}
        gone = sorted(self.held - wanted)
        self.held.clear()
        self.held.update(wanted)
        return gone

    def ask(self, message: RoundOpen) -> None:
        """A round opens."""
        self.asked.setdefault(message.round, set()).update(message.participants)
        since = message.plan.since or message.round
        for number in [number for number in self.asked if number < since]:
            del self.asked[number]


@dataclass
class OpenRound:
    """One open round, or one step of it."""

    message: RoundOpen
    began: float
    deadline: float
    round: RegionRound
    model: Model
    spool: Spool
    """Where payloads lie that are not added as they come."""
    stretch: Stretch | None = None
    """What the steps before this one did, where a region does several."""
    exchange: Exchange | None = None
    """Of keys, where updates are masked."""
    carried: tuple[Buffer, ...] = ()
    """What rides with its opening: the weights, or what changed of them, where they are small."""
    room: memoryview | None = None
    """Where its sum is made, at least 4 bytes an element."""
    payloads: dict[str, tuple[UpdateMeta, Buffer]] = field(default_factory=dict)
    """By key: what was received and not yet added, refused or counted."""
    outbox: dict[str, tuple[UpdateMeta, Buffer]] = field(default_factory=dict)
    """By key: what the cloud should have; kept until it closed the round."""
    delivered: set[str] = field(default_factory=set)
    said: tuple[float, int] = (0.0, 0)
    """When the cloud heard last how many updates are here, and how many."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who changes the sum."""
    over: bool = False

    def __post_init__(self) -> None:
        message, layout = self.message, self.model.layout
        self.codec = self.exchange.codec if self.exchange else open_codec(message.compression, layout)
        """Of the devices' updates."""
        self.upward = open_codec(message.plan.upward or message.compression, layout)
        """Of the region's sum."""
        rule = open_rule(message.plan.rule)
        size, release = self.round.size, self.spool.release
        self.sum: RunningSum | Robust | MaskedSum = RunningSum(size, self.room)
        if rule.robust:
            self.sum = Robust(rule, size, release)
        if self.exchange is not None:
            self.sum = self.exchange.sum

    async def undisturbed(self, adding: Coroutine[Any, Any, None]) -> None:
        """Add one to its end, whatever becomes of its sender's session: at once, or where it waits in a task."""
        at_once = 4 * self.round.size <= FEW and not self.turn.locked()
        await (adding if at_once else undisturbed(adding))

    async def add(self, offload: Offload, payload: Buffer, weight: float, scale: float) -> None:
        """One that was checked."""
        async with self.turn:
            if not self.over:
                await by_size(offload, 4 * self.round.size, self.sum.add, payload, self.codec, weight, scale)

    async def mean(self, offload: Offload) -> Vector:
        """Of what is not masked; valid until the round is over. Raises BadUpdate where nothing was added."""
        total = self.sum
        assert not isinstance(total, MaskedSum)
        async with self.turn:
            size = 4 * self.round.size if isinstance(total, RunningSum) else UNCOUNTED  # a rule reads from the disk
            mean: Vector = await by_size(offload, size, total.mean)
        return mean

    def say_progress(self, cloud: Peer | None, now: float) -> None:
        """To the cloud, not more often than somebody looks; the rest of it with the rounds' clock."""
        reported = self.round.reported
        if cloud is None or not cloud.live or self.said[1] == reported or now - self.said[0] < TICK_S:
            return
        self.said = (now, reported)
        message, one = self.message, self.round
        with contextlib.suppress(errors.Overloaded):  # the next one says more
            cloud.send(TrainProgress(message.job, message.round, reported, len(one.expected), one.missing))

    def joined(self, node: str, now: float) -> None:
        """One of its participants is (again) here."""
        self.round.handle(Joined(node), now)
        if self.exchange is not None:
            self.exchange.joined(node)

    def let_go(self, key: str) -> None:
        """Of what was refused, or added."""
        self.payloads.pop(key, None)
        self.spool.drop(key)

    def close(self) -> None:
        """Over: nothing of it is kept any more."""
        self.over = True
        self.payloads.clear()
        self.outbox.clear()
        self.spool.close()
        if self.exchange is not None:
            self.exchange.close()


def guard_of(plan: Plan, weights: Buffer) -> NormGuard:
    """As strict as the cloud's. Blocking."""
    hidden = plan.private
    return NormGuard.for_model(weights) if hidden is None else NormGuard.for_private(hidden.noise)


def terms_of(message: RoundOpen) -> Terms:
    """What the cloud said of the round, for the machine that decides."""
    plan = message.plan
    terms = Terms(
        since=plan.since, alone=plan.alone, least=open_rule(plan.rule).least, clip=plan.clip, steps=plan.steps,
        step=plan.step, masked=plan.secure is not None,
    )  # fmt: skip
    return msgspec.structs.replace(terms, most=message.max_samples) if message.max_samples else terms
