"""Whether a small model is sure enough, and what may go up to a larger one. Pure.

Where confidence (see `confidence`) means what it says, the mean of what is answered here is its expected accuracy,
without a label in sight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from msrt.dispatch.budget import Budget
from msrt.dispatch.policy import ModelPolicy

__all__ = ["Threshold", "Upper"]

SEEN: Final = 512
"""Rows by which the threshold is set."""
EVERY: Final = 16
"""Rows after which it is set again."""
BURST: Final = 8.0
"""Rows that may go up at once after a quiet time."""
TINY: Final = 1e-12


class Threshold:
    """Which rows are uncertain, and which of those there is budget for.

    The policy fixes the threshold, or it is set so that the expected accuracy of what is answered here holds, or else
    so that the budget is used. Whatever it is, no more than the budget goes up.
    """

    def __init__(self, policy: ModelPolicy) -> None:
        self._fixed, self._accuracy, self._share = (
            policy.escalate_below, policy.escalate_accuracy, policy.escalate_budget,
        )  # fmt: skip
        self._seen: deque[float] = deque(maxlen=SEEN)
        self._fresh = 0
        self._budget = Budget(self._share, 0.0, BURST if self._share else 0.0)
        self.value = self._fixed
        self.rows = self.escalated = self.unbudgeted = 0

    def choose(self, sure: Sequence[float]) -> tuple[list[int], int]:
        """The rows, by number, that go up, and how many should and may not; the most uncertain first."""
        self.rows += len(sure)
        self._budget.earn(len(sure))
        self._learn(sure)
        if self._share >= 1 and not self._fixed and not self._accuracy:
            wanted = list(range(len(sure)))
        else:
            wanted = sorted((row for row, value in enumerate(sure) if value < self.value), key=lambda row: sure[row])
        chosen = [row for row in wanted if self._share >= 1 or self._budget.spend(1, 0.0)]
        self.unbudgeted += len(wanted) - len(chosen)
        self.escalated += len(chosen)
        return sorted(chosen), len(wanted) - len(chosen)

    def _learn(self, sure: Sequence[float]) -> None:
        if self._fixed:
            return
        self._seen.extend(float(value) for value in sure)
        self._fresh += len(sure)
        if self._fresh < EVERY:
            return
        self._fresh = 0
        ordered = sorted(self._seen)
        self.value = self._for_accuracy(ordered) if self._accuracy else self._for_budget(ordered)

    def _for_budget(self, ordered: list[float]) -> float:
        """The confidence that a share of the rows as large as the budget is below."""
        return ordered[min(int(len(ordered) * self._share), len(ordered) - 1)]

    def _for_accuracy(self, ordered: list[float]) -> float:
        """The lowest one above which the mean is what is wanted."""
        left, total = len(ordered), sum(ordered)
        for value in ordered:
            if total / left >= self._accuracy:
                return value
            total -= value
            left -= 1
            if not left:
                break
        return 1.0 + TINY


class Upper:
    """The tier above, as this model's requests have found it: how long to wait for it, and when not to ask at all."""

    FIRST_S: Final = 1.0
    LEAST_S: Final = 0.1
    FACTOR: Final = 8.0
    REST_S: Final = 0.5
    MOST_REST_S: Final = 8.0

    def __init__(self) -> None:
        self._typical = 0.0
        self._failures = 0
        self._until = 0.0

    def resting(self, now: float) -> bool:
        """It failed a moment ago: who asks again at once only waits."""
        return now < self._until

    def patience(self, left_s: float) -> float:
        """How long to wait: many times what it usually takes, and never so long that the caller's own time runs out."""
        usual = max(self.LEAST_S, self.FACTOR * self._typical) if self._typical else self.FIRST_S
        return max(0.0, min(usual, left_s * 0.8))

    def answered(self, took_s: float) -> None:
        self._failures, self._until = 0, 0.0
        self._typical += 0.2 * (took_s - self._typical) if self._typical else took_s

    def failed(self, now: float) -> None:
        """Late, away or full."""
        self._until = now + min(self.MOST_REST_S, self.REST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
