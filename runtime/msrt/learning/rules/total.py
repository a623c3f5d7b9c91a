"""What a round comes to on the cloud, where sums of regions and singles meet."""

from __future__ import annotations

from collections.abc import Callable

from msrt.buffers import Buffer
from msrt.learning.aggregate import RunningSum
from msrt.learning.compress import Codec
from msrt.learning.rules.robust import Robust
from msrt.learning.rules.rule import Rule
from msrt.learning.vector import Vector

__all__ = ["Total"]


class Total:
    """Sums count by their weights. Singles do too where the rule is the mean; else what a robust rule makes of them
    counts as one more region's, by their number. `release` is that of `Robust`.
    """

    def __init__(
        self, rule: Rule, size: int, release: Callable[[], None] = lambda: None, room: memoryview | None = None
    ) -> None:
        """`room` is that of `RunningSum`."""
        self._release = release
        self._sum = RunningSum(size, room)
        self._singles = Robust(rule, size, release) if rule.robust else None

    def add(self, payload: Buffer, codec: Codec, weight: float, scale: float = 1.0, *, is_sum: bool) -> bool:
        """Add a checked payload; whether it may be forgotten now, or is read again by `mean`. Blocking."""
        if is_sum or self._singles is None:
            self._sum.add(payload, codec, weight, scale)
            self._release()
            return True
        self._singles.add(payload, codec, weight, scale)
        return False

    def mean(self) -> Vector:
        """Once all are added. Raises BadUpdate when nothing was. Blocking."""
        singles = self._singles
        if singles is None or not singles.weight:
            return self._sum.mean()
        if not self._sum.weight:
            return singles.mean()
        self._sum.add_vector(singles.mean(), singles.weight)
        return self._sum.mean()
