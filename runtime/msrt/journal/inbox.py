"""What durable messages have come in, by the sender's own numbers, over restarts.

Exact, not only a high-water mark: a device that moved to another edge has its messages reach the cloud over two ways
and out of order. Runs of numbers are kept as ranges, so a sender costs one range in the common case.

The rule that makes it safe: commit the store before acknowledging, *also for a message that was seen before*. The mark
of an earlier copy may still wait for its commit.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Final

import msgspec

from msrt.world.world import Store

__all__ = ["Inbox"]

MAX_RANGES: Final = 512
"""Per sender; beyond it the oldest gap is closed: what is missing there counts as given up by its sender."""

_Ranges = list[tuple[int, int]]


class Inbox:
    """Seen numbers per (sender, outbox), on the store of the messages themselves: one commit makes both durable."""

    def __init__(self, store: Store, name: str = "inbox") -> None:
        self._store, self._prefix = store, f"{name}/"
        self._seen: dict[str, _Ranges] = {
            key: msgspec.msgpack.decode(value, type=_Ranges) for key, value in store.scan(self._prefix)
        }

    def _key(self, sender: str, outbox: str) -> str:
        return f"{self._prefix}{sender}/{outbox}"

    def seen(self, sender: str, outbox: str, seq: int) -> bool:
        """Whether that message was marked before."""
        ranges = self._seen.get(self._key(sender, outbox), [])
        place = bisect_right(ranges, (seq, 1 << 63)) - 1
        return place >= 0 and seq <= ranges[place][1]

    def mark(self, sender: str, outbox: str, seq: int) -> bool:
        """Remember a message; False if it was seen before. Durable with the store's next commit."""
        if self.seen(sender, outbox, seq):
            return False
        key = self._key(sender, outbox)
        ranges = self._seen.setdefault(key, [])
        place = bisect_right(ranges, (seq, 1 << 63))
        low = high = seq
        if place < len(ranges) and ranges[place][0] == seq + 1:
            high = ranges.pop(place)[1]
        if place and ranges[place - 1][1] == seq - 1:
            place -= 1
            low = ranges.pop(place)[0]
        ranges.insert(place, (low, high))
        if len(ranges) > MAX_RANGES:
            ranges[0:2] = [(ranges[0][0], ranges[1][1])]
        self._store.put(key, msgspec.msgpack.encode(ranges))
        return True

    def high_water(self, sender: str, outbox: str) -> int:
        """The highest number seen, 0 for none."""
        ranges = self._seen.get(self._key(sender, outbox))
        return ranges[-1][1] if ranges else 0

    def missing(self, sender: str, outbox: str) -> int:
        """Numbers below the highest one that never came (dropped by their sender, or still on another way)."""
        ranges = self._seen.get(self._key(sender, outbox), [])
        return sum(after[0] - before[1] - 1 for before, after in pairwise(ranges))

    def forget(self, sender: str) -> None:
        """A sender was removed from the tree."""
        for key in [key for key in self._seen if key.startswith(f"{self._prefix}{sender}/")]:
            del self._seen[key]
            self._store.put(key, None)
