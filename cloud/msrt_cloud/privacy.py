"""A private job on the cloud: what its rounds spend, the noise that the cloud adds, and when the budget is spent.

The journal is the ledger: a round's weights are given away only after its entry is written, so what a round costs is
spent exactly once, whenever the cloud dies. A round that was given up, or whose entry was never written, gave nothing
away: it is done again with fresh noise and costs what one round costs. With `local` and `sample` it is the nodes that
give their updates away, once a round, and each counts for itself how often it did (see msrt.training.private).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from msrt.errors import InvalidJob
from msrt.journal.state import Job, State
from msrt.learning.noise import KEY, add_noise
from msrt.learning.vector import Vector
from msrt.protocol.messages import Plan, PrivatePlan
from msrt.training.accounting import Account, Mechanism, question, reach
from msrt.training.settings import JobConfig

if TYPE_CHECKING:
    from msrt.journal.facts import JobCreated
    from msrt.training.accounting import Accountant
    from msrt_cloud.training import Training

__all__ = ["Spending", "inherited", "settle"]


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
    return (*_before(job), (question(was).mechanism, job.round)) if job.round else _before(job)


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


class Spending:
    """Of one running job."""

    def __init__(self, training: Training, config: JobConfig, account: Account) -> None:
        assert config.privacy is not None
        self._t, self._settings, self._account = training, config.privacy, account
        self._affordable = account.affordable(config.privacy.limit)

    @classmethod
    async def of(cls, training: Training, created: JobCreated, config: JobConfig) -> Spending | None:
        """Nothing where the job is not private. Raises InvalidJob, JobFailed where it cannot be counted."""
        if config.privacy is None:
            return None
        before = _before(training.writer.state.jobs[created.job])
        asked = msgspec.structs.replace(question(config), before=before)
        return cls(training, config, await training.accountant(asked))

    def affords(self, number: int) -> bool:
        """May that round be opened?"""
        return number <= self._affordable

    def told(self, number: int) -> dict[str, float]:
        """What so many rounds have spent."""
        return {"epsilon": self._account.after(number), "delta": self._settings.delta}

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
