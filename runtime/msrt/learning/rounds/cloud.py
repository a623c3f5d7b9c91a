"""The cloud's round over everybody who takes part."""

from __future__ import annotations

from collections.abc import Container, Iterable

from msrt.errors import BadUpdate
from msrt.learning.aggregate import NormGuard
from msrt.learning.events import Abandon, Add, Arrived, Drop, Event, Finish, Hold, Joined, Left, Refuse, RoundAction
from msrt.learning.notes import Note, unpack
from msrt.learning.pacing import Pace
from msrt.learning.rounds.base import PLAIN, Phase, Round, Terms
from msrt.protocol.messages import UpdateMeta

__all__ = ["GlobalRound"]


class _Either:
    """Of one of two: unlike their union it costs nothing to make."""

    def __init__(self, one: Container[str], other: Container[str]) -> None:
        self._one, self._other = one, other

    def __contains__(self, node: object) -> bool:
        return node in self._one or node in self._other


class GlobalRound(Round):
    """`pace.quorum` of them must be included for the round to count.

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
        known: Container[str] = (),
        terms: Terms = PLAIN,
    ) -> None:
        super().__init__(job, round_, size, pace, guard, terms)
        self.participants = frozenset(participants)
        self._known = _Either(self.participants, known)
        self.included: dict[str, int] = {}
        self.held: dict[tuple[str, int], tuple[str, UpdateMeta, float]] = {}
        """By node and round of the update, with its norm."""
        self.notes: dict[str, Note] = {}
        self.gone: set[str] = set()
        self._sums: set[str] = set()
        self._late_sums: dict[str, tuple[str, UpdateMeta]] = {}
        """By who made it: sums that another master was to add, and may have added."""

    @property
    def reported(self) -> int:
        """Updates that are here, in a sum or alone."""
        return len(self.included.keys() | self._in_late_sums) + len(self.held)

    @property
    def here(self) -> set[str]:
        """Nodes whose update of this round is here."""
        singles = {node for node, round_ in self.held if round_ == self.round}
        return self.included.keys() | self._in_late_sums | singles

    @property
    def _in_late_sums(self) -> set[str]:
        return {node for _, meta in self._late_sums.values() for node in meta.nodes}

    @property
    def _countable(self) -> set[str]:
        """Those of them that would be in the model if the round ended now: singles may be too few for the rule."""
        singles = {node for node, round_ in self.held if round_ == self.round}
        return self.included.keys() | self._in_late_sums | (singles if len(singles) >= self.terms.least else set())

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
        if not fault and meta.is_sum and self.terms.alone:  # of an edge that has not heard yet: nobody failed
            return [Refuse(key, tuple(meta.nodes), "a sum, where every update counts alone")]
        if not fault and meta.is_sum and len(meta.nodes) < self.terms.least:
            fault = f"a sum of {len(meta.nodes)} updates, the rule needs {self.terms.least}"
        if not fault and not meta.is_sum:
            try:
                self.guard.admit(event.norm, meta.metrics.get("work", 1.0))
            except BadUpdate as error:
                fault = str(error)
        elif not fault and event.norm > self.guard.limit:
            fault = f"a sum of norm {event.norm:.3g}, the limit is {self.guard.limit:.3g}"
        if fault:
            return self._fail(key, meta, fault)
        if meta.summed_by:
            self._late_sums[meta.first_parent] = (key, meta)
            return [Hold(key)]
        return self._sum(key, meta) if meta.is_sum else self._single(key, meta, event.norm)

    def _repeated(self, meta: UpdateMeta) -> str:
        if meta.is_sum:
            if meta.first_parent in self._sums or meta.first_parent in self._late_sums:
                return "the same sum again"
            return "a sum that overlaps another" if self.included.keys() & meta.nodes.keys() else ""
        node = next(iter(meta.nodes), "")
        if self.terms.counted.get(node, 0) >= meta.round:
            return "counted in an earlier round"
        here = (node, meta.round) in self.held or (node in self.included and meta.round == self.round)
        return "a duplicate" if here else ""

    def _fail(self, key: str, meta: UpdateMeta, fault: str) -> list[RoundAction]:
        if self._of_this(meta):
            here = self.here
            for node in meta.nodes:
                if node in self.participants and node not in here:
                    self.failed[node] = fault
        return [Refuse(key, tuple(meta.nodes), fault)]

    def _sum(self, key: str, meta: UpdateMeta) -> list[RoundAction]:
        self._sums.add(meta.first_parent)
        weights = self._weights(meta)
        whole = min(meta.secure.samples, self.terms.most * len(weights)) or sum(weights.values())
        self.included.update(weights)
        self._metrics.add(meta.metrics, whole)
        self.notes.update(unpack(meta.notes, meta.nodes))
        actions: list[RoundAction] = [Add(key, whole)]
        for node in meta.nodes:
            self.failed.pop(node, None)
            if (node, self.round) in self.held:
                actions.append(Drop(self.held.pop((node, self.round))[0], "a sum contains it"))
        return actions

    def _add_late_sums(self) -> list[RoundAction]:
        """The largest first: any two of them are one within the other, or have nobody in common."""
        actions: list[RoundAction] = []
        held, self._late_sums = self._late_sums, {}
        for _, (key, meta) in sorted(held.items(), key=lambda one: (-len(one[1][1].nodes), one[0])):
            if self.included.keys() & meta.nodes.keys():
                actions.append(Drop(key, "a sum contains it"))
            else:
                actions += self._sum(key, meta)
        return actions

    def _single(self, key: str, meta: UpdateMeta, norm: float) -> list[RoundAction]:
        (node,) = meta.nodes
        self.failed.pop(node, None)
        self.held[node, meta.round] = (key, meta, norm)
        return [Hold(key)]

    def _end(self, now: float) -> list[RoundAction]:
        if self.phase is not Phase.OPEN:
            return []
        if self.terms.goal:
            return self._end_buffered(now)
        here = self.here
        counted = len(self._countable & self.participants)
        enough = counted >= max(1, self.pace.quorum)
        if enough and self._met is None:
            self._met = now
        late = now >= self.pace.until(self._met)
        if enough and (late or self.participants <= here | self.failed.keys() | self.gone):
            return self._finish()
        if late or self.participants <= here | self.failed.keys():
            return self._abandon(
                f"{counted} of {len(self.participants)} nodes reported, the quorum is {self.pace.quorum}"
            )
        return []

    def _end_buffered(self, now: float) -> list[RoundAction]:
        """With the buffer full, or at the deadline with what it holds."""
        if self.reported >= self.terms.goal or (now >= self.pace.deadline and self.reported):
            return self._finish()
        if now >= self.pace.deadline or self.participants <= self.failed.keys():
            return self._abandon(f"no update came, {self.terms.goal} were waited for")
        return []

    def _abandon(self, reason: str) -> list[RoundAction]:
        self.phase = Phase.CLOSED
        held = [key for key, _, _ in self.held.values()] + [key for key, _ in self._late_sums.values()]
        drops = [Drop(key, "the round was given up") for key in held]
        return [*drops, Abandon(reason, dict(self.failed))]

    def _finish(self) -> list[RoundAction]:
        self.phase = Phase.CLOSED
        actions = self._add_late_sums()
        if len(self.held) < self.terms.least:
            why = f"{len(self.held)} alone, the rule needs {self.terms.least}"
            actions += [Drop(key, why) for key, _, _ in self.held.values()]
            self.held.clear()
        late: dict[str, tuple[int, ...]] = {}
        for (node, round_), (key, meta, norm) in sorted(self.held.items()):
            samples, age = self._weights(meta)[node], self.round - round_
            if age:
                late[node] = (*late.get(node, ()), round_)
            else:
                self.included[node] = samples
                self._metrics.add(meta.metrics, samples)
                self.notes[node] = Note.of(meta.metrics)
            actions.append(Add(key, *self.terms.counts(samples, age, norm)))
        self.held.clear()
        included = dict(sorted(self.included.items()))
        return [*actions, Finish(included, dict(self.failed), self._metrics.mean(), late)]
