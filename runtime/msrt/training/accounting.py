"""What a private job spends, by dp-accounting: `account`; on the cloud in a process of its own, `account_apart`.

A process, because dp-accounting brings scipy (80 MB and a CPU second), and the master stays small. It is asked twice in
a job's life: when it is submitted, and when the cloud begins to run it.

Who is a neighbour: *central* hides whether one node's data are there (its update, or zero in its place) and *sample*
whether one sample is, so what one contributes is at most `clip`. *Local* hides which update a node made among all that
it could: twice `clip`, so half the multiplier counts. Nothing is gained by drawing nodes by lot, because the tree knows
who was drawn; every round counts for everybody.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from msrt.errors import InvalidJob, JobFailed
from msrt.process import spawn_child, stop_child
from msrt.training.settings import JobConfig

__all__ = ["Account", "Accountant", "Mechanism", "Question", "account", "account_apart", "question"]

DEADLINE_S: Final = 120.0
NICE: Final = 5
MOST: Final = 10_000
"""Rounds that a private job may have."""
SLACK: Final = 1e-6
"""Relative: what a search for the noise may leave of an epsilon."""
HINT: Final = "on the cloud: pip install 'msrt[private]'"


class Mechanism(msgspec.Struct, frozen=True):
    """One round of a job, for one node (or sample)."""

    noise: float | None
    """Standard deviation over what one may contribute at most; None: to be found."""
    rate: float = 0.0
    """Poisson sampling of each step; 0: none."""
    steps: int = 1
    """Times that noise is added in a round."""


class Question(msgspec.Struct, frozen=True):
    """What a job asks."""

    mechanism: Mechanism
    rounds: int
    delta: float
    epsilon: float = 0.0
    """For all rounds together, where the noise is to be found."""
    before: tuple[tuple[Mechanism, int], ...] = ()
    """What was spent on the same nodes already: mechanisms and rounds."""


class Account(msgspec.Struct, frozen=True):
    """The answer."""

    noise: float
    """Of the mechanism."""
    spent: tuple[float, ...]
    """Epsilon after 1, 2, ... rounds."""

    def after(self, rounds: int) -> float:
        return self.spent[rounds - 1] if rounds else 0.0

    def affordable(self, limit: float) -> int:
        """Rounds that do not spend more."""
        return sum(epsilon <= limit * (1 + SLACK) for epsilon in self.spent)


Accountant: TypeAlias = Callable[[Question], Awaitable[Account]]


def question(config: JobConfig) -> Question:
    """What a private job asks. Raises InvalidJob where it asks too much."""
    asked = config.privacy
    assert asked is not None
    if config.rounds > MOST:
        raise InvalidJob(f"{config.rounds} private rounds, the most are {MOST}")
    steps = {
        "central": 1,
        "local": config.pace.steps,
        "sample": config.pace.steps * math.ceil(config.train.epochs / (asked.rate or 1.0)),
    }[asked.mode]
    noise = asked.noise and asked.noise / reach(config)
    return Question(
        Mechanism(noise, asked.rate or 0.0, steps), config.rounds, asked.delta, asked.epsilon or 0.0
    )  # fmt: skip


def reach(config: JobConfig) -> float:
    """What one may change at most, in units of `clip`."""
    return 2.0 if config.privacy is not None and config.privacy.mode == "local" else 1.0


def account(asked: Question) -> Account:
    """The answer, in this process. Raises InvalidJob. Blocking, for a second or more."""
    if importlib.util.find_spec("dp_accounting") is None:
        raise InvalidJob("a private job needs dp-accounting", hint=HINT)
    mechanism = asked.mechanism
    if mechanism.noise is None:
        mechanism = msgspec.structs.replace(mechanism, noise=_noise(asked))
    assert mechanism.noise is not None
    parts = [*asked.before, (mechanism, 0)]
    sampled = any(part.rate for part, _ in parts)
    spent = _renyi(parts, asked) if sampled else _gaussian(parts, asked)
    return Account(mechanism.noise, spent)


def _gaussian(parts: Sequence[tuple[Mechanism, int]], asked: Question) -> tuple[float, ...]:
    """Exact: Gaussian mechanisms compose to one whose inverse variances add up."""
    import dp_accounting as dp  # noqa: PLC0415 - brings scipy

    *before, (now, _) = parts
    earlier = sum(_precision(part) * rounds for part, rounds in before)
    precisions = (earlier + _precision(now) * rounds for rounds in range(1, asked.rounds + 1))
    return tuple(float(dp.get_epsilon_gaussian(precision**-0.5, asked.delta)) for precision in precisions)


def _precision(part: Mechanism) -> float:
    assert part.noise is not None
    return part.steps / part.noise**2


def _renyi(parts: Sequence[tuple[Mechanism, int]], asked: Question) -> tuple[float, ...]:
    """An upper bound by Renyi divergences, which add up (Mironov, 2017 and 2019)."""
    from dp_accounting.rdp import RdpAccountant, compute_epsilon  # noqa: PLC0415 - brings scipy

    *before, (now, _) = parts
    accountant = RdpAccountant()
    for part, rounds in before:
        accountant.compose(_event(part), rounds)
    earlier = accountant.rdp.copy()
    one = RdpAccountant().compose(_event(now)).rdp
    sums = (earlier + one * rounds for rounds in range(1, asked.rounds + 1))
    return tuple(float(compute_epsilon(accountant.orders, rdp, asked.delta)[0]) for rdp in sums)


def _event(part: Mechanism) -> object:
    """One round, in the terms of dp-accounting."""
    import dp_accounting as dp  # noqa: PLC0415 - brings scipy

    gaussian = dp.GaussianDpEvent(part.noise)
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(part.rate, gaussian) if part.rate else gaussian, part.steps)


def _noise(asked: Question) -> float:
    """The least noise with which all rounds keep to epsilon. Raises InvalidJob where none does."""
    import dp_accounting as dp  # noqa: PLC0415 - brings scipy
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    def whole(noise: float) -> object:
        one = msgspec.structs.replace(asked.mechanism, noise=noise)
        events = [dp.SelfComposedDpEvent(_event(part), rounds) for part, rounds in (*asked.before, (one, asked.rounds))]
        return dp.ComposedDpEvent(events)

    sampled = asked.mechanism.rate or any(part.rate for part, _ in asked.before)
    if not sampled:
        left = float(dp.get_sigma_gaussian(asked.epsilon, asked.delta)) ** -2
        left -= sum(_precision(part) * rounds for part, rounds in asked.before)
        if left > 0:
            return float((asked.mechanism.steps * asked.rounds / left) ** 0.5)
    else:
        try:
            return float(dp.calibrate_dp_mechanism(RdpAccountant, whole, asked.epsilon, asked.delta))
        except (ValueError, RuntimeError, dp.mechanism_calibration.NoBracketIntervalFoundError):
            pass
    raise InvalidJob(f"no noise keeps {asked.rounds} rounds to an epsilon of {asked.epsilon:g}")


# --- a process of its own ----------------------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it writes: an account, or what is wrong."""

    account: Account | None = None
    text: str = ""
    hint: str = ""


async def account_apart(asked: Question) -> Account:
    """The answer of a child process. Raises InvalidJob, and JobFailed where it died or took too long."""
    child = await spawn_child(
        [sys.executable, "-P", "-m", "msrt.training.accounting"], nice=NICE,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer, said = await child.communicate(msgspec.json.encode(asked))
    except TimeoutError:
        raise JobFailed(f"what the job spends was not known within {DEADLINE_S:.0f} s") from None
    finally:
        if child.returncode is None:
            await stop_child(child, grace_s=0.0)
    try:
        verdict = msgspec.json.decode(answer, type=Verdict)
    except msgspec.DecodeError:
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise JobFailed(f"accounting ended with status {child.returncode}", hint=last) from None
    if verdict.account is None:
        raise InvalidJob(verdict.text, hint=verdict.hint)
    return verdict.account


def main() -> None:
    """One question on standard input, one answer on standard output."""
    try:
        verdict = Verdict(account(msgspec.json.decode(sys.stdin.buffer.read(), type=Question)))
    except InvalidJob as error:
        verdict = Verdict(text=error.text, hint=error.hint)
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
