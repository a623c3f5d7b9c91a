"""A training round as two pure state machines: an edge's over its devices, the cloud's over everybody.

Each node counts at most once, whatever is lost, repeated or dies, by three rules:
1. A device stamps its update with the first parent (node/boot) it is sent to, and never changes that stamp.
   Only that parent may add it into a sum; any other passes it on alone, as a *single*.
2. A parent (one boot of it) makes one sum a round. The cloud adds a sum when it comes; the same sum again, or one that
   overlaps what was added, is dropped.
3. The cloud holds singles until the round ends, and then adds those whose node no sum contains.

Senders keep their updates until RoundClosed, so a master that dies begins again with an empty machine.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from msrt.errors import BadUpdate
from msrt.learning.aggregate import NormGuard
from msrt.learning.events import (
    Abandon,
    Add,
    Arrived,
    Closed,
    Drop,
    Event,
    Finish,
    Forget,
    Forward,
    Hold,
    Joined,
    Left,
    Refuse,
    RoundAction,
    SendSum,
    Tell,
)
from msrt.protocol.messages import UpdateMeta

__all__ = ["GlobalRound", "Pace", "Phase", "RegionRound"]

SAMPLES_LIMIT: Final = 1 << 40


class Phase(enum.Enum):
    """open: collecting. sealed: a region's sum has gone up. closed: over."""

    OPEN = "open"
    SEALED = "sealed"
    CLOSED = "closed"


class Pace(msgspec.Struct, frozen=True):
    """When to stop waiting: at the deadline, or `patience` times as long as the quorum took plus `grace` seconds."""

    opened: float
    deadline: float
    quorum: int
    patience: float = 4.0
    grace: float = 1.5

    def until(self, met: float | None) -> float:
        """The moment to stop, when the quorum was met at `met`."""
        if met is None:
            return self.deadline
        return min(self.deadline, self.opened + self.patience * (met - self.opened) + self.grace)


class _Metrics:
    """Sample-weighted means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, metrics: Mapping[str, float], samples: int) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                total, weight = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value * samples, weight + samples)

    def mean(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self._sums.items()}


class _Round:
    """What both machines share: identity of the round, checks, the pace."""

    most = SAMPLES_LIMIT
    """Samples that one node may weigh."""

    def __init__(self, job: str, round_: int, size: int, pace: Pace, guard: NormGuard | None) -> None:
        self.job, self.round, self.size, self.pace = job, round_, size, pace
        self.guard = guard or NormGuard()
        self.phase = Phase.OPEN
        self.failed: dict[str, str] = {}
        self._met: float | None = None
        self._metrics = _Metrics()

    @property
    def wake(self) -> float | None:
        """When to send the next Tick; None when there is nothing to wait for."""
        return self.pace.until(self._met) if self.phase is Phase.OPEN else None

    def _fault(self, event: Arrived, known: Iterable[str] | None) -> str:
        """What is wrong with an update, in one sentence, or nothing."""
        meta = event.meta
        if (meta.job, meta.round) != (self.job, self.round):
            return f"an update of {meta.job} round {meta.round}; {self.job} is in round {self.round}"
        if not meta.nodes or (not meta.is_sum and len(meta.nodes) != 1):
            return f"an update of {len(meta.nodes)} nodes"
        if known is not None and not meta.nodes.keys() <= set(known):
            return "an update of nodes that do not take part"
        if meta.error or event.fault:
            return meta.error or event.fault
        if meta.size != self.size:
            return f"an update of {meta.size} parameters, the model has {self.size}"
        if not all(0 < samples < SAMPLES_LIMIT for samples in meta.nodes.values()):
            return "an update that counts samples wrongly"
        return ""

    def _weights(self, meta: UpdateMeta) -> dict[str, int]:
        """What its nodes count for. A claim above the bound counts as the bound: nobody outweighs all the others."""
        return {node: min(samples, self.most) for node, samples in meta.nodes.items()}


class RegionRound(_Round):
    """An edge's round. `me` is node/boot of this edge; `expected` are the participants among its devices now."""

    def __init__(
        self,
        job: str,
        round_: int,
        size: int,
        me: str,
        expected: Iterable[str],
        pace: Pace,
        guard: NormGuard | None = None,
    ) -> None:
        super().__init__(job, round_, size, pace, guard)
        self.me = me
        self.expected = set(expected)
        self.added: dict[str, int] = {}
        self.forwarded: set[tuple[str, str]] = set()

    @property
    def reported(self) -> int:
        return len(self.added) + len({node for node, _ in self.forwarded} - self.added.keys())

    def handle(self, event: Event, now: float) -> list[RoundAction]:
        """The actions that follow from one event."""
        match event:
            case Closed():
                was, self.phase = self.phase, Phase.CLOSED
                return [] if was is Phase.CLOSED else [Forget()]
            case Arrived():
                actions = self._arrived(event)
            case Joined(node):
                self.expected.add(node)
                return []  # the clock seals: nothing that follows from a joining is waited for
            case Left(node):
                self.expected.discard(node)
                actions = []
            case _:
                actions = []
        return actions + self._seal(now)

    def _arrived(self, event: Arrived) -> list[RoundAction]:
        meta, key = event.meta, event.key
        if self.phase is Phase.CLOSED:
            return [Drop(key, "the round is closed")]
        fault = self._fault(event, None)
        if not fault and meta.is_sum:
            fault = "a sum, from a device"
        node = next(iter(meta.nodes), "")
        if node in self.added or (node, meta.first_parent) in self.forwarded:
            return [Drop(key, "a duplicate")]
        if not fault:
            try:
                self.guard.admit(event.norm)
            except BadUpdate as error:
                fault = str(error)
        if fault:
            return self._fail(key, node, meta, fault)
        self.failed.pop(node, None)
        if self.phase is Phase.OPEN and meta.first_parent == self.me:
            weight = self.added[node] = self._weights(meta)[node]
            self._metrics.add(meta.metrics, weight)
            return [Add(key, weight)]
        self.forwarded.add((node, meta.first_parent))
        return [Forward(key)]

    def _fail(self, key: str, node: str, meta: UpdateMeta, fault: str) -> list[RoundAction]:
        """Refuse it; and where it was an update of this round at all, say so upwards, once a fault."""
        refuse = Refuse(key, tuple(meta.nodes), fault)
        ours = (meta.job, meta.round) == (self.job, self.round) and len(meta.nodes) == 1 and not meta.is_sum
        if not ours or self.failed.get(node) == fault:
            return [refuse]
        self.failed[node] = fault
        return [refuse, Tell(node, fault)]

    def _seal(self, now: float) -> list[RoundAction]:
        if self.phase is not Phase.OPEN:
            return []
        done = self.added.keys() | {node for node, _ in self.forwarded} | self.failed.keys()
        if self._met is None and self.reported >= max(1, self.pace.quorum):
            self._met = now
        everybody = bool(self.expected) and self.expected <= done and bool(self.added)
        if not everybody and now < self.pace.until(self._met):
            return []
        self.phase = Phase.SEALED
        if not self.added:
            return []
        nodes = dict(sorted(self.added.items()))
        return [
            SendSum(UpdateMeta(self.job, self.round, nodes, self.me, "", self.size, self._metrics.mean(), is_sum=True))
        ]


class GlobalRound(_Round):
    """The cloud's round over its participants. `pace.quorum` of them must be included for the round to count.

    `known` may have taken part when the round was opened before the cloud died: an edge's sum cannot be taken apart, so
    their updates are counted as well.
    """

    def __init__(
        self,
        job: str,
        round_: int,
        size: int,
        participants: Iterable[str],
        pace: Pace,
        guard: NormGuard | None = None,
        known: Iterable[str] = (),
    ) -> None:
        super().__init__(job, round_, size, pace, guard)
        self.participants = frozenset(participants)
        self._known = self.participants.union(known)
        self.included: dict[str, int] = {}
        self.held: dict[str, tuple[str, UpdateMeta]] = {}
        self.gone: set[str] = set()
        self._sums: set[str] = set()

    @property
    def reported(self) -> int:
        """Nodes whose update is here, in a sum or alone."""
        return len(self.included) + len(self.held)

    def handle(self, event: Event, now: float) -> list[RoundAction]:
        """The actions that follow from one event."""
        actions: list[RoundAction] = []
        match event:
            case Arrived():
                actions = self._arrived(event)
            case Joined(node):
                self.gone.discard(node)
            case Left(node):
                self.gone.add(node)
            case _:
                pass
        return actions + self._end(now)

    def _arrived(self, event: Arrived) -> list[RoundAction]:
        meta, key = event.meta, event.key
        if self.phase is Phase.CLOSED:
            return [Drop(key, "the round is closed")]
        repeated = self._repeated(meta)
        if repeated and not meta.error:
            return [Drop(key, repeated)]
        fault = self._fault(event, self._known)
        if not fault and not meta.is_sum:
            try:
                self.guard.admit(event.norm)
            except BadUpdate as error:
                fault = str(error)
        elif not fault and event.norm > self.guard.limit:
            fault = f"a sum of norm {event.norm:.3g}, the limit is {self.guard.limit:.3g}"
        if fault:
            return self._fail(key, meta, fault)
        return self._sum(key, meta) if meta.is_sum else self._single(key, meta)

    def _repeated(self, meta: UpdateMeta) -> str:
        if meta.is_sum:
            if meta.first_parent in self._sums:
                return "the same sum again"
            return "a sum that overlaps another" if self.included.keys() & meta.nodes.keys() else ""
        node = next(iter(meta.nodes), "")
        return "a duplicate" if node in self.included or node in self.held else ""

    def _fail(self, key: str, meta: UpdateMeta, fault: str) -> list[RoundAction]:
        if (meta.job, meta.round) == (self.job, self.round):
            here = self.included.keys() | self.held.keys()
            for node in self.participants & meta.nodes.keys() - here:
                self.failed[node] = fault
        return [Refuse(key, tuple(meta.nodes), fault)]

    def _sum(self, key: str, meta: UpdateMeta) -> list[RoundAction]:
        self._sums.add(meta.first_parent)
        weights = self._weights(meta)
        whole = sum(weights.values())
        self.included.update(weights)
        self._metrics.add(meta.metrics, whole)
        actions: list[RoundAction] = [Add(key, whole)]
        for node in meta.nodes:
            self.failed.pop(node, None)
            if node in self.held:
                actions.append(Drop(self.held.pop(node)[0], "a sum contains it"))
        return actions

    def _single(self, key: str, meta: UpdateMeta) -> list[RoundAction]:
        (node,) = meta.nodes
        self.failed.pop(node, None)
        self.held[node] = (key, meta)
        return [Hold(key)]

    def _end(self, now: float) -> list[RoundAction]:
        if self.phase is not Phase.OPEN:
            return []
        here = self.included.keys() | self.held.keys()
        counted = len(here & self.participants)
        enough = counted >= max(1, self.pace.quorum)
        if enough and self._met is None:
            self._met = now
        late = now >= self.pace.until(self._met)
        if enough and (late or self.participants <= here | self.failed.keys() | self.gone):
            return self._finish()
        if late or self.participants <= here | self.failed.keys():
            self.phase = Phase.CLOSED
            reason = f"{counted} of {len(self.participants)} nodes reported, the quorum is {self.pace.quorum}"
            drops = [Drop(key, "the round was given up") for key, _ in self.held.values()]
            return [*drops, Abandon(reason, dict(self.failed))]
        return []

    def _finish(self) -> list[RoundAction]:
        self.phase = Phase.CLOSED
        actions: list[RoundAction] = []
        for node, (key, meta) in sorted(self.held.items()):
            weight = self.included[node] = self._weights(meta)[node]
            self._metrics.add(meta.metrics, weight)
            actions.append(Add(key, weight))
        self.held.clear()
        included = dict(sorted(self.included.items()))
        return [*actions, Finish(included, dict(self.failed), self._metrics.mean())]
