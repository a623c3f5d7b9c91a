"""One running job: first weights, round after round, then the finished model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.journal.facts import JobCreated
from msrt.learning import events as e
from msrt.learning.aggregate import NormGuard
from msrt.learning.notes import Judged, worst_decile
from msrt.learning.pacing import Durations, Pace, patient
from msrt.learning.rounds import GlobalRound, Terms
from msrt.learning.vector import l2_norm, load, peek
from msrt.protocol.messages import Plan, RoundClosed, RoundOpen, TrainProgress, UpdateMeta
from msrt.training.private import SPENT
from msrt.training.settings import JobConfig
from msrt.training.task import Node
from msrt_cloud.checkpoint import Checkpoint
from msrt_cloud.crowd import Crowd
from msrt_cloud.finishing import finish, first_weights
from msrt_cloud.job_views import absent
from msrt_cloud.muster import Candidates, Muster, muster
from msrt_cloud.open_round import OpenRound
from msrt_cloud.privacy import NOBODY, BudgetSpent, Spending
from msrt_cloud.records import Draw, Records

if TYPE_CHECKING:
    from msrt_cloud.training import Training

__all__ = ["RunningJob"]

log = structlog.get_logger()
GATHER_S: Final = 0.25
RETRIES: Final = 5
"""Rounds without quorum in a row, after which the job fails."""
PAUSE_S: Final = 1.0
"""Least time from the opening of a round that is given up to the next one's; doubled by each one in a row."""


class RunningJob:
    """`training` is the coordinator: its world, journal, artifacts and fleet. Until `until` a round waits for all that
    the journal knows.
    """

    def __init__(self, training: Training, created: JobCreated, config: JobConfig, until: float) -> None:
        self._t, self._created, self._config, self.name = training, created, config, created.job
        self._until = until
        self.workshop = training.workshop(self.name)
        self._round: OpenRound | None = None
        self._records = Records(training.nodes, training.world.offload, self.name)
        self._silent: frozenset[str] = frozenset()
        """Who did not answer a round that was given up: its next try rather asks others."""
        self._given_up = 0
        """Times in a row that the present round was."""
        self._durations = Durations(config.pace.deviations)
        self._spending: Spending | None = None
        self._model: Checkpoint | None = None
        self.regions: dict[str, TrainProgress] = {}
        """Edge to what it said last."""
        self.waiting = "starting"
        self.counted: Final = "nodes"
        """What `progress` counts."""

    @property
    def progress(self) -> tuple[int, int]:
        """Nodes that reported in this round, and participants."""
        now = self._round
        if now is None:
            return 0, 0
        regional = sum(said.reported for said in self.regions.values() if said.round == now.message.round)
        return max(now.machine.reported, regional), len(now.machine.participants)

    @property
    def digests(self) -> set[str]:
        """Artifacts that it works with; the journal may not name them yet."""
        return self._model.digests if self._model is not None else set()

    @property
    def live(self) -> OpenRound | None:
        """The round that is open now."""
        return self._round if self._round is not None and self._round.open else None

    @property
    def bytes_up(self) -> int:
        """Of the round that has no line in the curves yet."""
        now = self._round
        if now is None or self._t.curves.totals(self.name).last.get("round") == now.message.round:
            return 0
        return now.bytes_up

    def closed(self) -> RoundClosed:
        """What edges hear of the last round; that the job is paused as soon as nothing is open any more."""
        job = self._t.writer.state.jobs[self.name]
        state = "paused" if job.held and self.live is None else "running"
        return RoundClosed(self.name, job.round, (), state, since=self._config.pace.since(job.round + 1))

    async def run(self) -> str:
        """Until the last round is checkpointed and published; says why where that is before its time. Raises what ends
        the job.
        """
        bundle = await self._t.artifacts.read(self._created.bundle)
        await self._unheld()
        await self.workshop.start(bundle)
        job = self._t.writer.state.jobs[self.name]
        checkpoint = self._model = Checkpoint(self._t, self._created.job, self._config)
        await self._records.resume(job.round)
        self._spending = await Spending.of(self._t, self._created, self._config, self._records)
        if job.weights:
            await checkpoint.resume(job)
        else:
            await checkpoint.begin(await first_weights(self._t, self._created, self.workshop, self._say))
        self._layout = peek(checkpoint.data)[0]
        self._guard = await self._norm_guard(checkpoint)
        reason = ""
        number = job.round
        while number < self._config.rounds:
            if self._spending is not None and not self._spending.affords(number + 1):
                reason = f"its privacy budget is spent after round {number}"
                break
            try:
                outcome = await self._one_round(number + 1, checkpoint)
            except BudgetSpent as over:
                reason = str(over)
                break
            if isinstance(outcome, e.Abandon):
                self._given_up += 1
                self.waiting = why = self._why(outcome)
                log.warning("round.abandoned", job=self.name, round=number + 1, reason=why)
                await self._records.redraw()
                if self._given_up >= RETRIES:
                    raise errors.JobFailed(f"{RETRIES} rounds in a row were given up: {why}")
                await self._pause(self._given_up)
                continue
            self._given_up = 0
            number += 1
        missing = await self._finish(checkpoint.weights, began=number > job.round)
        return "; ".join(why for why in (reason, missing) if why)

    async def _norm_guard(self, checkpoint: Checkpoint) -> NormGuard:
        """Of the updates that come alone."""
        hidden = self._plan(0).private
        if hidden is not None:
            return NormGuard.for_private(hidden.noise)
        return NormGuard.for_weights(await self._t.world.offload(l2_norm, load(checkpoint.data)[1]))

    async def _pause(self, failures: int) -> None:
        """What made all devices fail at once (no space, no network) lasts a while; five rounds are soon spent on it."""
        assert self._round is not None
        spent = self._t.world.now() - self._round.opened
        await asyncio.sleep(max(0.0, min(PAUSE_S * 2**failures, self._config.deadline_s) - spent))

    def _why(self, given_up: e.Abandon) -> str:
        """The reason, and what most of those who failed said, in the words of one of them."""
        if not given_up.failed:
            return given_up.reason
        fault, _ = Counter(given_up.failed.values()).most_common(1)[0]
        node = next(node for node, text in sorted(given_up.failed.items()) if text == fault)
        known = self._t.writer.state.nodes.get(node)
        said = fault.removeprefix(f"{errors.JobFailed.code}: ")
        return f"{given_up.reason}; {known.name if known else node} said: {said}"

    async def close(self) -> None:
        """End the workshop's process."""
        await self.workshop.stop(for_good=True)

    async def _unheld(self) -> None:
        """While an operator holds the job no round opens, and the processes of all nodes are let go."""
        jobs = self._t.writer.state.jobs
        if not jobs[self.name].held:
            return
        self._t.tell(self.closed())
        await self.workshop.stop()
        self.waiting = "paused by the operator"
        while True:
            await asyncio.sleep(GATHER_S)
            if not jobs[self.name].held:
                break
        self._t.tell(self.closed())

    # --- a round -------------------------------------------------------------------------------------------------

    async def _gather(self, number: int) -> Draw:
        """Wait for enough devices. Whom the round asks."""
        t, config, until = self._t, self._config, self._until
        due = Muster(*config.least_and_why, until, config.select)
        if t.world.now() < until:
            due = muster(t.writer.state, t.writer.state.jobs[self.name], due)
        while True:
            await self._unheld()
            crowd = t.fleet.crowd(config.select)
            over = self._spending.over(number) if self._spending is not None else NOBODY
            able = len(crowd) - sum(node in crowd for node in over)
            self.waiting = due.missing(t.fleet.heard(), crowd, able, t.world.now())
            if not self.waiting:
                return await self._draw(number, crowd, able, over)
            if self._spending is not None and t.world.now() >= until:
                self._spending.check_left(able, over, self._enrolled(), number)
            await asyncio.sleep(GATHER_S)

    def _enrolled(self) -> Iterator[str]:
        state = self._t.writer.state
        return (node for node in Candidates(state, self._config.select) if not state.nodes[node].revoked)

    async def _draw(self, number: int, crowd: Crowd, able: int, over: frozenset[str]) -> Draw:
        """A round that is opened again by another process asks the same nodes."""
        records = self._records
        found = records.drawn(number)
        if found is not None:
            return found
        wanted, without = self._config.wanted(able), self._silent | over
        if len(crowd) - sum(node in crowd for node in without) < wanted.count:
            without = over
        pool = crowd.pool(without)
        asked = await self._t.world.offload(pool.draw, records.history.seen, wanted, self.name, number)
        fresh = Draw(number, asked, len(crowd))
        ledger = self._spending.ledger if self._spending is not None else None
        if ledger is not None:
            await records.draw(fresh, ledger.asked(fresh.nodes, number))
        elif self._config.sampling.partial:
            await records.draw(fresh)
        return fresh

    async def _one_round(self, number: int, checkpoint: Checkpoint) -> e.Finish | e.Abandon:
        drawn = await self._gather(number)
        participants = drawn.nodes
        message = self._message(number, checkpoint, drawn.count)
        machine = self._machine(number, participants, checkpoint)
        rule = self._config.aggregate.opened
        self._round = current = OpenRound(
            self._t, message, machine, participants, self._layout, self._durations, rule, checkpoint.carried
        )  # fmt: skip
        self.waiting = ""
        try:
            outcome = await current.run()
            self._silent = frozenset()
            if isinstance(outcome, e.Abandon):
                self._silent = machine.participants - machine.here
            else:
                await self._checkpoint(current, outcome, checkpoint)
                current.say_closed(outcome, self._config.pace.since(number + 1))
        finally:
            await current.close()
        return outcome

    def _message(self, number: int, checkpoint: Checkpoint, count: int) -> RoundOpen:
        config, created = self._config, self._created
        return RoundOpen(
            self.name, number, created.bundle, created.signature, checkpoint.served, config.deadline_s, {}, count,
            config.links.device, config.heaviest, checkpoint.chain, self._plan(number), checkpoint.checksum,
            checksums=True,
        )  # fmt: skip

    @property
    def _alone(self) -> bool:
        """Does every update come up as it is? Also once a round of regions with a rule was given up: what their devices
        sent to an edge that died is for no other region.
        """
        aggregate = self._config.aggregate
        again = bool(aggregate.regional) and self._given_up > 0
        return self._config.pace.buffer > 0 or aggregate.alone or again

    def _plan(self, number: int) -> Plan:
        pace, aggregate = self._config.pace, self._config.aggregate
        regional = "" if self._alone else aggregate.regional
        plan = Plan(
            self._config.links.region, pace.since(number), self._alone, pace.deviations, pace.steps,
            clip=aggregate.clip, work_s=self._config.train.within_s, partial=pace.partial,
            rule=regional, quorum=self._config.quorum if regional else 0.5,
            secure=self._config.secure.plan(self._given_up) if self._config.secure else None,
        )  # fmt: skip
        return plan if self._spending is None else self._spending.plan(plan)

    def _machine(self, number: int, participants: dict[str, int], checkpoint: Checkpoint) -> GlobalRound:
        config, now = self._config, self._t.world.now()
        rule = config.aggregate.opened
        quorum = max(1, round(config.quorum * len(participants)), rule.least)
        usual = self._durations.usual
        least = patient(config.train.within_s)
        if config.pace.partial:
            least = max(least, config.deadline_s if usual is None else patient(usual))
        pace = Pace(now, now + config.deadline_s, quorum, usual=usual, least=least)
        terms = Terms(
            config.heaviest, config.pace.since(number), config.pace.discount, config.pace.buffer, checkpoint.counted,
            alone=self._alone, least=rule.least, clip=self._plan(number).clip,
        )  # fmt: skip
        known = Candidates(self._t.writer.state, config.select)
        return GlobalRound(self.name, number, self._layout.size, participants, pace, self._guard, known, terms)

    def announce(self, peers: Sequence[Peer]) -> None:
        """Tell edges what is open."""
        if self._round is not None:
            self._round.announce(peers)

    def devices_changed(self, devices: Collection[str]) -> None:
        """Something was said of these devices."""
        if self._round is not None:
            self._round.devices_changed(devices)

    def wants(self, meta: UpdateMeta) -> bool:
        """Does this update count in the open round?"""
        return self._round is not None and self._round.wants(meta)

    async def arrived(self, _peer: Peer, meta: UpdateMeta, payload: Buffer) -> None:
        """A whole update. Raises BadUpdate to tell its sender."""
        if self._round is not None:
            await self._round.arrived(meta, payload)

    async def _checkpoint(self, current: OpenRound, outcome: e.Finish, checkpoint: Checkpoint) -> None:
        """New weights on disk, then one journal entry: from then on the senders may forget."""
        t, number = self._t, current.message.round
        mean = await current.mean()
        spent: dict[str, float] = {}
        if self._spending is not None:
            await self._note_spent(outcome.failed, number)
            mean, spent = await self._spending.noisy(mean, len(outcome.included)), self._spending.told(number)
            outcome = msgspec.structs.replace(outcome, metrics=outcome.metrics | spent)
        metrics = outcome.metrics
        each = checkpoint.travels
        machine, history = current.machine, self._records.history
        scaffold = self._config.train.algorithm == "scaffold"
        shares = history.shares(outcome.included) if scaffold else None
        fact = await checkpoint.advance(number, mean, outcome, shares)
        shown = {}
        if scaffold or self._config.sampling.partial:
            shown = history.after(number, machine.participants, outcome.included, machine.notes)
            await self._records.add(shown)
        row = {
            "round": number, "wall": t.world.wall(), "loss": metrics.get("loss"), "accuracy": metrics.get("accuracy"),
            "seconds": round(t.world.now() - current.opened, 3), "bytes_up": current.bytes_up,
            "bytes_down": each * len(t.edges()), "nodes": len(outcome.included) + sum(map(len, outcome.late.values())),
            "late": outcome.late, "failed": outcome.failed, "update_bytes": metrics.get("update_bytes"),
            "update_bytes_ratio": current.ratio, "worst_decile": worst_decile(machine.notes.values()),
            "work": metrics.get("work"), "clipped": metrics.get("clipped"),
            "asked": len(machine.participants), "eligible": current.message.count,
            **spent,
        }  # fmt: skip
        judged = Judged.of(number, outcome.included, machine.notes)
        if self._spending is not None:
            judged = self._spending.judged(judged, machine.participants, t.curves.judged(self.name))
        await t.curves.judge(self.name, judged)
        await t.curves.add(self.name, number, row | absent(current, outcome, t.writer.state))
        await t.writer.append(fact)
        await checkpoint.commit(fact)
        history.settle(shown)
        log.info("round.closed", job=self.name, round=number, nodes=len(outcome.included), **metrics)

    async def _note_spent(self, failed: Mapping[str, str], number: int) -> None:
        """Nodes count for themselves as well, and know better where one trained a round twice."""
        ledger = self._spending.ledger if self._spending is not None else None
        for node in sorted(node for node, text in failed.items() if SPENT in text and ledger is not None):
            assert ledger is not None
            await self._records.spend(ledger.refused(node, number))

    # --- the end -------------------------------------------------------------------------------------------------

    async def _finish(self, weights: str, *, began: bool) -> str:
        """`began`: this process saw a round, and so whom baselines are of. What is missing, in words."""
        self._round = None
        everyone = list(self._t.fleet.crowd(self._config.select)) if began and self._config.baseline else []
        nodes = [Node(id=node, index=index, count=len(everyone)) for index, node in enumerate(everyone)]
        data = await self._t.artifacts.read(weights)
        return await finish(self._t, self.name, self._config, self.workshop, data, nodes, self._say)

    def _say(self, what: str) -> None:
        self.waiting = what
