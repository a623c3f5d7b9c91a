"""Is a candidate as good as what serves? Looked at as often as one likes, with stated error rates. Pure.

Everything judged is a share: of requests that failed, of answers slower than a mark laid by the stable version, of
copies whose answers differ. For each share a *confidence sequence* is kept: an interval that holds the true share at
all times at once with the stated probability, however often one looks and whenever one stops (Ville's inequality on the
beta-binomial mixture of likelihood ratios). A candidate is

- *bad* when its share is above the stable one's by more than is tolerated: with at most `alpha` where it is not so,
- *good* when its share is below the stable one's plus `effect`: with at most `beta` where it is not so.

Between tolerance and effect either may be said. One that is no worse is found good in the end, one that is worse by the
effect or more bad; how soon depends on the traffic alone. Requests are taken to be independent.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Final

import msgspec

__all__ = ["TOLERATED", "Compared", "Finding", "Judgement", "Limits", "interval", "judge"]

TOLERATED: Final = 0.25
"""Of an effect: what a candidate may be worse by without being called bad."""
_STEPS: Final = 40
"""Halvings of an interval's ends: exact to 1e-12."""


class Finding(enum.Enum):
    """What is known."""

    OPEN = "open"
    GOOD = "good"
    BAD = "bad"


class Limits(msgspec.Struct, frozen=True):
    """How sure, and of what."""

    alpha: float = 0.01
    """Of candidates that are no worse, the share that is called bad; over all that is judged together."""
    beta: float = 0.01
    """Of candidates that are worse by the effect in anything judged, the share that is called good."""


class Compared(msgspec.Struct, frozen=True):
    """One thing that is judged: how many of how many, on either side."""

    what: str
    effect: float
    bad: int
    of: int
    stable_bad: int = 0
    stable_of: int = 0
    absolute: bool = False
    """There is no stable side: the share itself is held against the effect."""

    @property
    def share(self) -> float:
        return self.bad / self.of if self.of else 0.0

    @property
    def stable_share(self) -> float:
        return self.stable_bad / self.stable_of if self.stable_of else 0.0


class Judgement(msgspec.Struct, frozen=True):
    """What one comparison says, with the interval of the candidate's share."""

    compared: Compared
    finding: Finding
    low: float
    high: float

    def sentence(self) -> str:
        """For people."""
        one = self.compared
        against = f", the stable version {one.stable_share:.2%} of {one.stable_of}"
        return f"{one.what} {one.share:.2%} of {one.of}" + ("" if one.absolute else against)


def judge(compared: Sequence[Compared], limits: Limits) -> tuple[Finding, list[Judgement]]:
    """Bad as soon as anything is; good once everything is."""
    each = [_judged(one, limits.alpha / max(1, len(compared)), limits.beta) for one in compared]
    findings = {one.finding for one in each}
    if Finding.BAD in findings:
        return Finding.BAD, each
    return (Finding.GOOD if findings == {Finding.GOOD} else Finding.OPEN), each


def _judged(one: Compared, alpha: float, beta: float) -> Judgement:
    sides = 1 if one.absolute else 2
    low, _ = interval(one.bad, one.of, alpha / sides)
    _, high = interval(one.bad, one.of, beta / sides)
    stable_high = stable_low = 0.0
    if not one.absolute:
        _, stable_high = interval(one.stable_bad, one.stable_of, alpha / sides)
        stable_low, _ = interval(one.stable_bad, one.stable_of, beta / sides)
    finding = Finding.OPEN
    if low > stable_high + TOLERATED * one.effect:
        finding = Finding.BAD
    elif high < stable_low + one.effect:
        finding = Finding.GOOD
    return Judgement(one, finding, low, high)


def interval(hits: int, of: int, error: float) -> tuple[float, float]:
    """Where the true share is, at all times at once, but with this probability; (0, 1) of nothing.

    The shares against which a bet with the prior Beta(1/2, 1/2) has not multiplied its stake by 1/error.
    """
    if not of:
        return 0.0, 1.0
    misses = of - hits
    bar = math.log(1 / error) - (_log_beta(hits + 0.5, misses + 0.5) - _log_beta(0.5, 0.5))
    mean = hits / of
    return _edge(0.0, mean, hits, misses, bar), _edge(1.0, mean, hits, misses, bar)


def _edge(outer: float, inner: float, hits: int, misses: int, bar: float) -> float:
    """The share nearest to `outer` that is not refuted; `inner` never is."""
    if -_log_likelihood(outer, hits, misses) < bar:
        return outer
    for _ in range(_STEPS):
        middle = (outer + inner) / 2
        if -_log_likelihood(middle, hits, misses) < bar:
            inner = middle
        else:
            outer = middle
    return outer


def _log_likelihood(share: float, hits: int, misses: int) -> float:
    if (hits and share <= 0) or (misses and share >= 1):
        return -math.inf
    return (hits * math.log(share) if hits else 0.0) + (misses * math.log1p(-share) if misses else 0.0)


def _log_beta(one: float, other: float) -> float:
    return math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)
