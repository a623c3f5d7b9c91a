"""Which worker next: power of two choices over rows in flight times recent latency."""

from __future__ import annotations

import random  # noqa: TID251 - the type only; the object is passed in
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msrt.dispatch.roster import Slot

__all__ = ["Latency", "choose"]

FORGET = 0.99
"""What is left of a loser's latency after a lost choice: a worker that was slow once gets another try by and by."""
RECENT = 0.3
WORST = 0.1


class Latency:
    """Seconds from sent to answered. `recent` steers the choice; `worst` falls slowly and says when silence is odd."""

    __slots__ = ("known", "recent", "worst")

    def __init__(self, hint: float = 0.0) -> None:
        self.recent = hint
        self.worst = hint
        self.known = False

    def add(self, seconds: float) -> None:
        if not self.known:
            self.known = True
            self.recent = self.worst = seconds
            return
        self.recent += RECENT * (seconds - self.recent)
        self.worst = seconds if seconds > self.worst else self.worst + WORST * (seconds - self.worst)


def choose(slots: list[Slot], rng: random.Random) -> Slot:
    """The better of two drawn at random. Two draws, not a search: a herd does not run to one worker."""
    count = len(slots)
    if count == 1:
        return slots[0]
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = slots[first], slots[second]
    if (other.worker.rows + 1) * other.latency.recent < (one.worker.rows + 1) * one.latency.recent:
        one, other = other, one
    other.latency.recent *= FORGET
    return one
