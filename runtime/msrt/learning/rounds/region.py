"""An edge's round over its own devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msrt.errors import BadUpdate
from msrt.learning.aggregate import NormGuard
from msrt.learning.events import (
    Add,
    Arrived,
    Closed,
    Drop,
    Event,
    Forget,
    Forward,
    Hold,
    Joined,
    Left,
    Lost,
    Refuse,
    RoundAction,
    SendSum,
    Tell,
)
from msrt.learning.notes import Note, pack, unpack
from msrt.learning.pacing import Pace
from msrt.learning.rounds.base import PLAIN, Phase, Round, Terms
from msrt.protocol.messages import UpdateMeta

__all__ = ["RegionRound"]

FEW: Final = 16


class RegionRound(Round):
    """`me` is node/boot of this edge; `expected` are the participants among its devices now."""

    def __init__(
        self,
        job: str,
        round_: int,
        size: int,
        me: str,
        expected: Iterable[str],
        pace: Pace,
        guard: NormGuard | None = None,
        terms: Terms = PLAIN,
    ) -> None:
        super().__init__(job, round_, size, pace, guard, terms)
        self.me = me
        self.expected = set(expected)
        self.added: dict[str, int] = {}
        self.forwarded: set[tuple[str, int, str]] = set()
        """(node, round of its update, its stamp)"""
        self._notes: dict[str, Note] = {}
        self._held: dict[str, tuple[str, float, str]] = {}
        """Node to key, norm and stamp, where the job's rule needs all at once."""
        self._few = False
        """They were too few for it."""
        self._sums: dict[str, frozenset[str]] = {}
        """Masters below whose sum was passed on as it came, or added, to the nodes of what was passed on."""

    @property
    def reported(self) -> int:
        return len(self.added) + len(self._passed - self.added.keys())

    @property
    def missing(self) -> tuple[str, ...]:
        """Who is waited for, in order, once they are few: names are read by people, and many cost time."""
        if self.expected and len(self.expected) - self.reported > FEW:
            return ()
        return tuple(sorted(self.expected - self.added.keys() - self._passed - self.failed.keys())[:FEW])

    @property
    def _passed(self) -> set[str]:
        """Nodes whose update of this round went up alone, or in the sum of another."""
        singles = {node for node, round_, _ in self.forwarded if round_ == self.round}
        return singles.union(*self._sums.values())

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
            case Lost(reason):
                return self._lost(reason)
            case _:
                actions = []
        return actions + self._seal(now)

    def _arrived(self, event: Arrived) -> list[RoundAction]:
        meta, key = event.meta, event.key
        if self.phase is Phase.CLOSED:
            return [Drop(key, "the round is closed")]
        fault = self._fault(event, None)
        if meta.is_sum and self.terms.sums:
            return self._sum(event, fault)
        if not fault and meta.is_sum:
            fault = "a sum, from a device"
        node = next(iter(meta.nodes), "")
        added = node in self.added and meta.round == self.round
        if added or (node, meta.round, meta.first_parent) in self.forwarded:
            return [Drop(key, "a duplicate")]
        if not fault:
            try:
                self.guard.admit(event.norm, meta.metrics.get("work", 1.0))
            except BadUpdate as error:
                fault = str(error)
        if fault:
            return self._fail(key, node, meta, fault)
        self.failed.pop(node, None)
        step = self.terms.steps == 1 or meta.step == self.terms.step
        return self._take(event, node) if self._mine(meta) and step else self._pass_on(key, node, meta)

    def _pass_on(self, key: str, node: str, meta: UpdateMeta) -> list[RoundAction]:
        """What is not for this region's sum goes up alone, where it is worth anything there."""
        if self.terms.steps > 1:
            return [Drop(key, "an update of another of the regions' own rounds")]
        if self.terms.masked:
            return self._fail(key, node, meta, "its masked update came after the region's sum was sealed")
        if self.terms.least and not (self._few and meta.first_parent == self.me):
            return [Drop(key, "not in time for this region's own, and alone anybody could say anything")]
        self.forwarded.add((node, meta.round, meta.first_parent))
        return [Forward(key)]

    def _take(self, event: Arrived, node: str) -> list[RoundAction]:
        meta, key = event.meta, event.key
        weight = self.added[node] = self._weights(meta)[node]
        self._metrics.add(meta.metrics, weight)
        self._notes[node] = Note.of(meta.metrics)
        if self.terms.least:
            self._held[node] = (key, event.norm, meta.first_parent)
            return [Hold(key)]
        return [Add(key, weight, self.terms.scale(event.norm))]

    def _sum(self, event: Arrived, fault: str) -> list[RoundAction]:
        """A sum from a master below."""
        meta, key = event.meta, event.key
        if meta.first_parent in self._sums:
            return [Drop(key, "the same sum again")]
        if not fault and event.norm > self.guard.limit:
            fault = f"a sum of norm {event.norm:.3g}, the limit is {self.guard.limit:.3g}"
        if fault:
            fresh = [node for node in meta.nodes if self._of_this(meta) and self.failed.get(node) != fault]
            self.failed.update(dict.fromkeys(fresh, fault))
            return [Refuse(key, tuple(meta.nodes), fault), *(Tell(node, fault) for node in fresh)]
        for node in meta.nodes:
            self.failed.pop(node, None)
        if not self._mine(meta) or self.added.keys() & meta.nodes.keys():
            self._sums[meta.first_parent] = frozenset(meta.nodes)
            return [Forward(key)]
        self._sums[meta.first_parent] = frozenset()
        weights, notes = self._weights(meta), unpack(meta.notes, meta.nodes)
        whole = sum(weights.values())
        self.added.update(weights)
        self._metrics.add(meta.metrics, whole)
        self._notes.update((node, notes.get(node, Note())) for node in meta.nodes)
        return [Add(key, whole)]

    def _mine(self, meta: UpdateMeta) -> bool:
        """Is it for this region's sum?"""
        ours = (meta.summed_by if meta.is_sum else meta.first_parent) == self.me and meta.round == self.round
        return ours and self.phase is Phase.OPEN and not self.terms.alone

    def waits(self, meta: UpdateMeta) -> bool:
        """Will this update, if it is not refused, be kept for a while?"""
        return self.terms.least > 0 or not self._mine(meta)

    def _fail(self, key: str, node: str, meta: UpdateMeta, fault: str) -> list[RoundAction]:
        """Refuse it; and where it was an update of this round at all, say so upwards, once a fault."""
        refuse = Refuse(key, tuple(meta.nodes), fault)
        ours = self._of_this(meta) and len(meta.nodes) == 1 and not meta.is_sum
        if not ours or self.failed.get(node) == fault:
            return [refuse]
        self.failed[node] = fault
        return [refuse, Tell(node, fault)]

    def _lost(self, reason: str) -> list[RoundAction]:
        """Nobody who was added is in any sum."""
        nodes, self.added = sorted(self.added), {}
        self.failed.update(dict.fromkeys(nodes, reason))
        return [Tell(node, reason) for node in nodes]

    def _seal(self, now: float) -> list[RoundAction]:
        if self.phase is not Phase.OPEN:
            return []
        if self._met is None and self.reported >= max(1, self.pace.quorum):
            self._met = now
        if not self._everybody and now < self.pace.until(self._met):
            return []
        self.phase = Phase.SEALED
        if 0 < len(self._held) < self.terms.least:
            return self._too_few()
        if not self.added:
            return []
        held = [
            Add(key, self.added[node], self.terms.scale(norm)) for node, (key, norm, _) in sorted(self._held.items())
        ]
        self._held.clear()
        nodes = dict(sorted(self.added.items()))
        meta = UpdateMeta(
            self.job, self.round, nodes, self.me, "", self.size, self._metrics.mean(), is_sum=True,
            step=self.terms.step, notes=pack(self._notes[node] for node in nodes),
        )  # fmt: skip
        return [*held, SendSum(meta)]

    @property
    def _everybody(self) -> bool:
        """Did all say something? Counted before they are compared: that is asked with each update of thousands."""
        if not self.expected or not self.added:
            return False
        passed = self._passed
        if len(self.added) + len(passed) + len(self.failed) < len(self.expected):
            return False
        return self.expected <= (self.added.keys() | passed | self.failed.keys())

    def _too_few(self) -> list[RoundAction]:
        """For the rule: they go up alone, and count there with the others that do. What a device stamps for somebody
        else never does: liars would meet there to be the most.
        """
        self._few = True
        actions: list[RoundAction] = []
        for node, (key, _, stamp) in sorted(self._held.items()):
            del self.added[node]
            self.forwarded.add((node, self.round, stamp))
            actions.append(Forward(key))
        self._held.clear()
        return actions
