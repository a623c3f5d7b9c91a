"""Asks, times, and has every answer judged."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from msrt.demo.judge import Answer, Judge
from msrt.errors import MsrtError, words_of

__all__ = ["Infer", "Tally", "drive"]

Infer = Callable[[int], Awaitable[Answer]]
"""Ask about one row of the judge's. Raises MsrtError when there is no answer."""


@dataclass
class Tally:
    """What a load has seen. A gap is the time from asking to the answer, or between two answers if that is longer."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    right_labels: int = 0
    seconds: list[float] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    silence_s: float = 0.0
    last: float = 0.0

    def answered(self, began: float, now: float) -> None:
        self.seconds.append(now - began)
        if self.last:
            self.silence_s = max(self.silence_s, now - self.last)
        self.last = now

    def quantile_ms(self, share: float) -> float:
        """Of the times to an answer."""
        return float(np.quantile(self.seconds, share)) * 1e3 if self.seconds else 0.0

    @property
    def longest_gap_ms(self) -> float:
        return max(self.silence_s, max(self.seconds, default=0.0)) * 1e3

    @property
    def accuracy(self) -> float:
        """Share of the answers with the right label."""
        return self.right_labels / max(1, len(self.seconds))

    @property
    def faultless(self) -> bool:
        return self.requests > 0 and not self.failed and not self.wrong


async def drive(
    infer: Infer, judge: Judge, tally: Tally, stop: asyncio.Event, *, workers: int, pause_s: float, limit: int = 0
) -> None:
    """Ask with so many workers until told to stop, or `limit` times; what was asked is waited for."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set() and (not limit or tally.requests < limit):
            row = tally.requests % len(judge.rows)
            tally.requests += 1
            began = loop.time()
            try:
                answer = await infer(row)
            except MsrtError as error:
                tally.failed += 1
                tally.errors[words_of(error)] += 1
            else:
                tally.answered(began, loop.time())
                tally.by[f"{answer.variant}@{answer.version}"] += 1
                tally.wrong += judge.wrong(row, answer)
                tally.right_labels += judge.right_label(row, answer)
            if pause_s:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(work() for _ in range(workers)))
