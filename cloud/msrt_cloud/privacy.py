"""A private job on the cloud: what its rounds spend, the noise that the cloud adds, and when the budget is spent.

The journal is the ledger: a round's weights are given away only after its entry is written, so what a round costs is
spent exactly once, whenever the cloud dies. A round that was given up, or whose entry was never written, gave nothing
away: it is done again with fresh noise and costs what one round costs. With `local` and `sample` it is the nodes that
give their updates away, once a round, and each counts for itself how often it did (see msrt.training.private).
There the cloud keeps a ledger of each node (msrt.learning.ledger): who was asked more often has spent more, who has
spent all is not drawn again, and the job ends when too few are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from msrt.errors import InvalidJob
from msrt.journal.state import Job, State
from msrt.learning.ledger import Ledger
from msrt.learning.noise import KEY, add_noise
from msrt.learning.notes import Judged
from msrt.learning.vector import Vector
from msrt.protocol.messages import Plan, PrivatePlan
from msrt.training.accounting import Account, Mechanism, question, reach
from msrt.training.settings import JobConfig

if TYPE_CHECKING:
    from msrt.journal.facts import JobCreated
    from msrt.training.accounting import Accountant
    from msrt_cloud.records import Records
    from msrt_cloud.training import Training

__all__ = ["ROUNDS", "BudgetSpent", "Spending", "inherited", "settle"]

NOBODY: Final = frozenset[str]()
ROUNDS: Final = "rounds_spent"
"""Among a round's metrics: so many the node has spent that spent most."""


def inherited(state: State, after: str, config: JobConfig) -> tuple[tuple[Mechanism, int], ...]:
    """What the job that a new one goes on from spent, with those before it. Raises InvalidJob."""
    job = state.jobs.get(after)
    if job is None or config.privacy is None or not job.created.config.get("privacy"):
        return ()
    was = msgspec.convert(job.created.config, JobConfig)
    assert was.privacy is not None
    if was.privacy.mode != config.privacy.mode:
        raise InvalidJob(
            f"{after} is private by {was.privacy.mode!r}: what it spent says nothing of {config.privacy.mode!r}",
            hint="start from fresh weights, or with its mode",
        )
    rounds = _gone(job, was.privacy.mode)
    return (*_before(job), (question(was).mechanism, rounds)) if rounds else _before(job)


def _gone(job: Job, mode: str) -> int:
    """Rounds that a node of an earlier job spent at most. One that was stopped or failed may have had a round open:
    with noise of the nodes' own that told as much as any other.
    """
    if mode == "central":
        return job.round
    known = job.advanced.metrics.get(ROUNDS) if job.advanced is not None else None
    cut = job.ended is not None and job.ended.state != "finished"
    return (job.round if known is None else int(known)) + cut


def _before(job: Job) -> tuple[tuple[Mechanism, int], ...]:
    return tuple((Mechanism(noise, rate, steps), rounds) for noise, rate, steps, rounds in job.created.spent)


async def settle(accountant: Accountant, config: JobConfig, before: tuple[tuple[Mechanism, int], ...]) -> JobConfig:
    """The job with the noise that its epsilon asks for. Raises InvalidJob where not one round can be paid."""
    asked = config.privacy
    if asked is None:
        return config
    found = await accountant(msgspec.structs.replace(question(config), before=before))
    if not found.affordable(asked.limit):
        spent = " after what the jobs before it spent" if before else ""
        raise InvalidJob(
            f"one round would bring epsilon to {found.after(1):.3g}{spent}, the budget is {asked.limit:g}",
            hint="more [privacy] noise, a larger budget, or fewer steps",
        )
    return msgspec.structs.replace(config, privacy=asked.settled(found.noise * reach(config)))


class BudgetSpent(Exception):
    """No further round can be paid."""


class Spending:
    """Of one running job."""

    def __init__(self, training: Training, config: JobConfig, account: Account, records: Records) -> None:
        assert config.privacy is not None
        self._t, self._config, self._settings, self._account = training, config, config.privacy, account
        self._affordable = account.affordable(config.privacy.limit)
        self.ledger = None if config.privacy.mode == "central" else Ledger(self._affordable, records.spent)
        """Of single nodes; None: each round counts for all of them."""
        self._short = math.inf
        """Since when too few are here that may be asked."""

    @classmethod
    async def of(cls, training: Training, created: JobCreated, config: JobConfig, records: Records) -> Spending | None:
        """Nothing where the job is not private. Raises InvalidJob, JobFailed where it cannot be counted."""
        if config.privacy is None:
            return None
        before = _before(training.writer.state.jobs[created.job])
        asked = msgspec.structs.replace(question(config), before=before)
        return cls(training, config, await training.accountant(asked), records)

    def affords(self, number: int) -> bool:
        """May that round be opened, as far as all nodes together go?"""
        return self.ledger is not None or number <= self._affordable

    def over(self, number: int) -> frozenset[str]:
        """Nodes that the round may not ask."""
        return NOBODY if self.ledger is None else self.ledger.over(number)

    def check_left(self, able: int, over: frozenset[str], known: Iterable[str], number: int) -> None:
        """Raises BudgetSpent where too few are left: of all that are `known`, or for a while of those that are here."""
        least, now = self._config.least_nodes, self._t.world.now()
        if able >= least or not over:
            self._short = math.inf
            return
        self._short = min(self._short, now)
        left = sum(node not in over for node in known)
        if left < least or now - self._short >= self._config.deadline_s:
            few = min(left, able)
            more = f": {few} of its nodes have some left, and it needs {least}" if few else ""
            raise BudgetSpent(f"its privacy budget is spent after round {number - 1}{more}")

    def told(self, number: int) -> dict[str, float]:
        """What so many rounds have spent: of the node that spent most, where each counts for itself."""
        ledger = self.ledger
        if ledger is None:
            return {"epsilon": self._account.after(number), "delta": self._settings.delta}
        spent = {"epsilon": self._account.after(min(ledger.most, self._affordable)), "delta": self._settings.delta}
        return spent | {ROUNDS: float(ledger.most), "nodes_spent": float(len(ledger.over(number + 1)))}

    def judged(
        self, found: Mapping[str, Judged], asked: Iterable[str], known: Mapping[str, Judged]
    ) -> dict[str, Judged]:
        """What is kept of single nodes, with the epsilon that each has spent: those a round asked, in it or not."""
        ledger, out = self.ledger, dict(found)
        if ledger is not None:
            for node in asked:
                row = out.get(node) or known.get(node) or Judged(0, 0)
                rounds = min(ledger.rows[node].rounds, self._affordable) if node in ledger.rows else 0
                out[node] = msgspec.structs.replace(row, epsilon=self._account.after(rounds))
        return out

    def plan(self, plan: Plan) -> Plan:
        """With what edges and devices have to do."""
        settings = self._settings
        if settings.mode == "central":
            return msgspec.structs.replace(plan, clip=settings.clip, private=PrivatePlan())
        private = PrivatePlan(settings.noise or 0.0, self._affordable * plan.steps)
        return msgspec.structs.replace(plan, private=private)

    async def noisy(self, mean: Vector, nodes: int) -> Vector:
        """The mean of so many clipped updates with the cloud's noise: that on the sum is `noise * clip`."""
        settings = self._settings
        if settings.mode != "central":
            return mean
        deviation = (settings.noise or 0.0) * settings.clip / nodes
        key = self._t.world.random.randbytes(KEY)
        found: Vector = await self._t.world.offload(add_noise, mean, deviation, key)
        return found
