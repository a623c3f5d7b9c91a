"""Which worker next: power of two choices over rows in flight times peak-EWMA latency."""

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
    """The better of two drawn at random. Two draws, not a search: a herd does not run to one worker."""
    count = len(slots)
    if count == 1:
        return slots[0]
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = slots[first], slots[second]
    return other if other.load(now) < one.load(now) else one
