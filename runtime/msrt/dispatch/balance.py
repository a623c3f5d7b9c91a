"""Which worker next: power of two choices (Mitzenmacher 2001) over rows in flight times peak-EWMA latency, and of a few
more where two find nobody idle."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the type only; the object is passed in
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msrt.dispatch.roster import Slot

__all__ = ["Latency", "choose"]

TAU_S = 1.0
"""A peak is forgotten at this pace: a worker that was slow once gets another try by and by."""
USUAL = 0.1
WORST = 0.1
LONG_S = 0.002
"""From here on, waiting for a turn costs more than looking for somebody idle ..."""
MORE = 8
"""... by so many more draws."""


class Latency:
    """Seconds from sent to answered. `recent` rises at once and falls slowly (Finagle's peak EWMA) and steers the
    choice; `usual` is a plain mean, to compare workers by; `worst` says when silence is odd."""

    __slots__ = ("at", "known", "recent", "usual", "worst")

    def __init__(self, hint: float = 0.0) -> None:
        self.recent = self.usual = self.worst = hint
        self.known = False
        self.at = 0.0
        """When it was last heard."""

    def add(self, seconds: float, now: float) -> None:
        if not self.known:
            self.known = True
            self.recent = self.usual = self.worst = seconds
        elif seconds >= self.recent:
            self.recent = seconds
        else:
            self.recent = seconds + (self.recent - seconds) * math.exp((self.at - now) / TAU_S)
        self.at = now
        self.usual += USUAL * (seconds - self.usual)
        self.worst = seconds if seconds > self.worst else self.worst + WORST * (seconds - self.worst)

    def forgive(self) -> None:
        """Let it be chosen once: what it was before it rested says little."""
        self.recent = 0.0

    def now(self, now: float) -> float:
        """`recent`, fading while nothing is heard."""
        idle = now - self.at
        return self.recent if idle < TAU_S or not self.known else self.recent * math.exp((TAU_S - idle) / TAU_S)


def choose(slots: list[Slot], rng: random.Random, now: float) -> Slot:
    """The better of two drawn at random; where both are at work that takes its time, the best of a few more. It is
    draws, not a search: what one costs does not grow with the fleet."""
    count = len(slots)
    if count == 1:
        return slots[0]
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = slots[first], slots[second]
    best = other if other.load(now) < one.load(now) else one
    if best.worker.rows and count > 2 and best.latency.recent > LONG_S:
        for _ in range(min(MORE, count - 2)):
            another = slots[int(rng.random() * count)]
            if another.load(now) < best.load(now):
                best = another
                if not best.worker.rows:
                    break
    return best
