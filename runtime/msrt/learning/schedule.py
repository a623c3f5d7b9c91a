"""How a learning rate changes with time: a pure function of how many steps (or rounds) are behind.

Written as `constant`, `step:EVERY:FACTOR`, `cosine` or `cosine:FLOOR`, each after a linear warm-up if wanted.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

__all__ = ["SCHEDULE", "Schedule"]

SCHEDULE: Final = r"^(constant|step:[1-9]\d{0,8}:(0?\.\d{1,9}|1)|cosine(:(0|0?\.\d{1,9}))?)$"


class Schedule(msgspec.Struct, frozen=True):
    """Factors of one learning rate over `total` steps, the first `warmup` of which climb to it."""

    text: str = "constant"
    total: int = 1
    warmup: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(SCHEDULE, self.text):
            raise ValueError(f"no schedule is {self.text!r}: constant, step:EVERY:FACTOR, cosine or cosine:FLOOR")

    def factor(self, done: int) -> float:
        """Of the rate, for the step after `done` of them: 0 .. 1.

        constant  1
        step      FACTOR ** (done // EVERY)
        cosine    half a wave from 1 down to FLOOR, where it would be after the last step (SGDR without restarts,
                  Loshchilov 2017)
        """
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        kind, *numbers = self.text.split(":")
        if kind == "step":
            return float(numbers[1]) ** ((done - self.warmup) // int(numbers[0]))
        if kind == "cosine":
            floor = float(numbers[0]) if numbers else 0.0
            whole = max(self.total - self.warmup, 1)
            part = min(max(done - self.warmup, 0) / whole, 1.0)
            return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * part)) / 2
        return 1.0
