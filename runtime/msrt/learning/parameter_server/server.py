"""One server's part in a job: which pushes count, who may go on, when a round is over.

A push is known by (worker, clock): a worker's clocks only grow, over its restarts too, for it enters at one that the
server names. So one that comes again, by another way or after another life, is counted once; which ones are in a shard
is part of the shard's snapshot. A `boot` fences a worker's earlier life.

All servers of a job count its progress on their own, from the same pushes, and a worker tells each of them of the
newest round that another one is in: so they end a round within a step of each other, without a word between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from msrt.learning.pacing import Pace
from msrt.learning.parameter_server import events as e
from msrt.learning.parameter_server.clocks import Clocks, Mode
from msrt.learning.parameter_server.tally import Tally
from msrt.protocol.messages import Push

__all__ = ["ShardServer", "Terms"]

SLACK: Final = 1e-9
"""Of a round: what float sums of shares may lack."""
FOLLOW_S: Final = 1.0
"""A server that hears of a later round ends its own by itself within so long, or without what it lacks."""
LOST_S: Final = 15.0
"""The same where nobody has died: a push that was lost on its way comes again in time (see exchange.AGAIN_S)."""


class Terms(msgspec.Struct, frozen=True):
    """How a job is trained."""

    mode: Mode = Mode.SYNC
    staleness: int = 0
    ahead: int = 0
    """See `Clocks`."""
    rounds: int = 1
    steps: float = 0.0
    """Of a round: clocks of every worker; or ..."""
    epochs: float = 0.0
    """... times through the data of all workers."""
    discount: float = 0.0
    """A push that was computed t clocks ago moves the model by (1 + t) ** -discount of its share."""
    lease_s: float = 3.0
    """Silence after which a worker holds nobody any more."""
    least: int = 1
    """Workers that are there before the first one begins."""


class ShardServer:
    """Decides for the shards of one job on one server; the shell moves vectors."""

    def __init__(self, terms: Terms, progress: float = 0.0, turn: int = 0) -> None:
        """`progress` in rounds and `turn`, the updates so far, as the newest of its shards has them."""
        self.terms = terms
        self.clocks = Clocks(terms.mode, terms.staleness, terms.ahead)
        self.progress, self.turn = progress, turn
        self.round = int(progress + SLACK)
        """Rounds that are over."""
        self.applied: dict[int, dict[str, int]] = {}
        """Shard to worker to the last clock that is in the shard."""
        self.tally = Tally()
        self._begun = turn > 0
        self._expected = set[str]()
        """Workers that the job begins with, of whom nothing was heard yet."""
        self._begins: Pace | None = None
        """How long they are waited for; its quorum is there since ..."""
        self._enough: float | None = None
        self._lacks = turn > 0
        """A push may have died with a worker, or have come after the snapshot that this began with."""
        self._later = 0, 0.0
        """The newest round that another server is in, and since when that is known."""
        self._summed: dict[int, dict[str, int]] = {}
        """The same of the sum that waits for its step."""
        self._boots: dict[str, int] = {}
        self._data: dict[str, int] = {}
        self._samples: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._waiting: dict[str, Push] = {}
        self._told: set[str] = set()
        """Of these, who knows."""

    @property
    def over(self) -> bool:
        """All rounds are."""
        return self.round >= self.terms.rounds

    @property
    def workers(self) -> tuple[str, ...]:
        """Who is counted on."""
        return tuple(sorted(self.clocks.done))

    @property
    def slowest(self) -> tuple[str, ...]:
        """For whom others wait now."""
        if not self._waiting:
            return ()
        if not self._begun and self._expected:
            return tuple(sorted(self._expected))
        return tuple(sorted(worker for worker, done in self.clocks.done.items() if done == self.clocks.lowest))

    def expect(self, workers: Iterable[str], pace: Pace) -> None:
        """Nobody begins before these are there, or `pace` has waited for them: who is quick to start would lead the
        model away on data of its own.
        """
        self._expected, self._begins = set(workers), pace

    def hold(self, shard: int, applied: Mapping[str, int]) -> None:
        """This server has it from now on; the last clock of each worker that is in it."""
        self.applied[shard] = dict(applied)

    def drop(self, shard: int) -> None:
        """Another server has it."""
        self.applied.pop(shard, None)
        self._summed.pop(shard, None)

    def handle(self, event: e.Event, now: float) -> list[e.Action]:
        """What follows."""
        out: list[e.Action] = []
        match event:
            case e.Arrived(push, key, fault):
                self._arrived(push, key, fault, now, out)
            case e.Here(workers):
                self._heard.update((worker, now) for worker in workers if worker in self.clocks.done)
            case e.Left(worker):
                self._leave(worker)
            case e.Tick():
                for worker in [w for w in self.clocks.done if now - self._heard[w] > self.terms.lease_s]:
                    self._leave(worker)
            case e.Save():
                out.append(e.Keep(self._mark()))
            case e.Again():
                out.append(e.Snapshot(self.round, self._mark(), Tally()))
        self._catch_up(now, out)
        self._begun = self._begun or self._may_begin(now)
        self._settle(out)
        if isinstance(event, e.Tick):
            self._say_wait(out)
        return out

    # --- pushes ------------------------------------------------------------------------------------------------

    def _arrived(self, push: Push, key: str, fault: str, now: float, out: list[e.Action]) -> None:
        if self.over:
            self._dropped(key, "over", out)
            out.append(e.Answer(push, "over", round=self.round))
            return
        worker = push.worker
        if push.join:
            self._boots[worker] = push.boot
        elif self._boots.get(worker) != push.boot:
            self._dropped(key, "unknown", out)
            out.append(e.Answer(push, "join"))
            return
        self._heard[worker] = now
        self._expected.discard(worker)
        self._data[worker] = push.data or self._data.get(worker, 0)
        if worker not in self.clocks.done or push.join:
            self.clocks.join(worker, max(push.clock, 1 + self._last(worker)))
        if push.round > max(self.round, self._later[0]):
            self._later = push.round, now
        if key:
            self._count(push, key, fault, out)
        elif not push.join and self._fresh(push) and not self.clocks.late(push.clock):
            out.append(e.Answer(push, "again"))
            return
        if push.clock >= 0:
            self.clocks.finish(worker, push.clock)
        self.tally.gap = max(self.tally.gap, self.clocks.gap)
        self._waiting[worker] = push
        self._told.discard(worker)

    def _last(self, worker: str) -> int:
        tables = [*self.applied.values(), *self._summed.values()]
        return max((table.get(worker, -1) for table in tables), default=-1)

    def _fresh(self, push: Push) -> tuple[int, ...]:
        """Those of its shards that lie here and do not have it."""
        worker, clock = push.worker, push.clock
        return tuple(
            shard for shard, table in sorted(self.applied.items())
            if shard in push.shards
            and clock > max(table.get(worker, -1), self._summed.get(shard, {}).get(worker, -1))
        )  # fmt: skip

    def _count(self, push: Push, key: str, fault: str, out: list[e.Action]) -> None:
        fresh = self._fresh(push)
        if fault or self.clocks.late(push.clock):
            self.tally.refused += bool(fault)
            self.tally.late += not fault
            self._dropped(key, fault or "late", out)
            return
        if not fresh:
            self._dropped(key, "counted before", out)
            return
        worker = push.worker
        self.tally.add(push)
        self._samples[worker] = push.samples
        tables = self._summed if self.clocks.mode is Mode.SYNC else self.applied
        for shard in fresh:
            tables.setdefault(shard, {})[worker] = push.clock
        if self.clocks.mode is Mode.SYNC:
            out.append(e.Add(key, fresh, float(max(push.samples, 1))))
            self._advance(0.0, push.samples)
            return
        live = self.clocks.done
        everyone = sum(self._samples.get(other, push.samples) for other in live)
        share = push.samples / everyone if everyone else 1 / len(live)
        age = max(0, self.turn - push.turn) / len(live)
        self.turn += 1
        out.append(e.Apply(key, fresh, share * (1 + age) ** -self.terms.discount, self.progress))
        self._advance(1 / len(live), push.samples)

    def _dropped(self, key: str, why: str, out: list[e.Action]) -> None:
        if key:
            out.append(e.Drop(key, why))

    def _leave(self, worker: str) -> None:
        self.clocks.leave(worker)
        self._expected.discard(worker)
        self._lacks = True
        for table in (self._waiting, self._samples, self._heard):
            table.pop(worker, None)

    # --- what follows --------------------------------------------------------------------------------------------

    def _advance(self, clocks: float, samples: int) -> None:
        """So many clocks of all workers were done, and so many samples seen."""
        if self.terms.steps:
            self.progress += clocks / self.terms.steps
        else:
            self.progress += samples / max(1, sum(self._data.values())) / self.terms.epochs

    def _catch_up(self, now: float, out: list[e.Action]) -> None:
        """Another server is in a later round. This one ends its own in a moment by itself, unless it lacks a push or
        two, which died with a worker, or came after its last snapshot.
        """
        round_, since = self._later
        if round_ > self.round and now - since > (FOLLOW_S if self._lacks else LOST_S):
            self.progress = float(round_)
            self._end_round(round_, out)

    def _step(self, out: list[e.Action]) -> None:
        if not self._summed:
            return
        out.append(e.Step(self.progress))
        self.turn += 1
        for shard, table in self._summed.items():
            self.applied[shard].update(table)
        self._summed.clear()
        self._advance(1.0, 0)

    def _may_begin(self, now: float) -> bool:
        """Are enough workers there, and all that are expected, if they come in time?"""
        if len(self.clocks.done) < self.terms.least:
            return False
        self._enough = now if self._enough is None else self._enough
        return not self._expected or self._begins is None or now >= self._begins.until(self._enough)

    def _settle(self, out: list[e.Action]) -> None:
        """The step that everybody has pushed for; the round that is over; whoever may go on."""
        clocks = self.clocks
        if self._summed and clocks.done and self._stepped():
            self._step(out)
        if (now := int(self.progress + SLACK)) > self.round and not self._summed:
            self._end_round(now, out)
        for worker, push in list(self._waiting.items()):
            if self.over:
                out.append(e.Answer(push, "over", round=self.round))
            elif self._begun and clocks.may(worker):
                out.append(e.Answer(push, "go", clocks.done[worker], self.turn, self.round))
            else:
                continue
            del self._waiting[worker]

    def _say_wait(self, out: list[e.Action]) -> None:
        """Who has to wait for longer need not send its payload again."""
        for worker, push in self._waiting.items():
            if worker not in self._told:
                self._told.add(worker)
                self.tally.waited[worker] = self.tally.waited.get(worker, 0) + 1
                out.append(e.Answer(push, "wait", self.clocks.done[worker]))

    def _stepped(self) -> bool:
        """Has every worker done with the clock that is summed?"""
        summed = min(clock for table in self._summed.values() for clock in table.values())
        return self.clocks.lowest > summed

    def _end_round(self, round_: int, out: list[e.Action]) -> None:
        self.round = min(round_, self.terms.rounds)
        out.append(e.Snapshot(self.round, self._mark(), self.tally))
        self.tally = Tally()

    def _mark(self) -> e.Mark:
        return e.Mark(self.progress, self.turn, {shard: dict(table) for shard, table in self.applied.items()})
