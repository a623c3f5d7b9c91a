"""A rule by the name that stands in job.toml and travels with a round."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from msrt.errors import InvalidJob

__all__ = ["RULE", "Rule", "open_rule"]

RULE: Final = r"^(mean|median|trimmed:0?\.\d{1,6}|(krum|bulyan):[1-9]\d{0,3}|multi-krum:[1-9]\d{0,3}:[1-9]\d{0,3})$"


class Rule(msgspec.Struct, frozen=True):
    """`share` of trimmed, `liars` that Krum and its kin are made for, `kept` by multi-krum.

    None of them weighs a node by its samples: a liar would claim many.
    """

    kind: str = "mean"
    share: float = 0.0
    liars: int = 0
    kept: int = 1

    @property
    def robust(self) -> bool:
        return self.kind != "mean"

    @property
    def by_coordinate(self) -> bool:
        """Does it take the middle of each coordinate by itself?"""
        return self.kind in ("median", "trimmed", "bulyan")

    @property
    def least(self) -> int:
        """So few updates give what the rule promises; of fewer it is not taken.

        Median: 3. Trimmed: one is cut at each end. Krum: 2 f + 3 (Blanchard 2017), multi-Krum also f + m + 2.
        Bulyan: 4 f + 3 (El Mhamdi 2018).
        """
        if self.kind == "median":
            return 3
        if self.kind == "trimmed":
            return next(count for count in range(3, 1 << 21) if self.cut(count))
        if self.kind == "bulyan":
            return 4 * self.liars + 3
        if self.kind in ("krum", "multi-krum"):
            return max(2 * self.liars + 3, self.liars + self.kept + 2 if self.kind == "multi-krum" else 0)
        return 0

    def cut(self, count: int) -> int:
        """So many of `count` values are cut at each end: rounded down, as scipy's and Flower's trimmed means do."""
        return int(self.share * count)


def open_rule(text: str) -> Rule:
    """mean, median, trimmed:SHARE, krum:F, multi-krum:F:M or bulyan:F; empty is mean. Raises InvalidJob."""
    if not re.fullmatch(RULE, text or "mean"):
        raise InvalidJob(f"no rule is {text!r}", hint="mean, median, trimmed:SHARE, krum:F, multi-krum:F:M, bulyan:F")
    kind, *numbers = (text or "mean").split(":")
    if kind == "trimmed":
        share = float(numbers[0])
        if not 0 < share < 0.5:
            raise InvalidJob(f"trimmed cuts {share:g} at each end", hint="less than half, more than nothing")
        return Rule(kind, share=share)
    return Rule(kind, 0.0, *map(int, numbers))
