"""Which range of a vector is which shard, and which server has it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Final

import msgspec

__all__ = ["ALIGN", "Span", "place", "spans"]

ALIGN: Final = 1024
"""Elements: no block of a codec is cut where the vector has enough of them."""


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Elements start .. stop - 1 of the flat vector."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def spans(size: int, count: int) -> tuple[Span, ...]:
    """The vector cut into so many contiguous ranges (fewer where it has fewer elements), equal but for one unit.

    The unit is a codec's block as soon as every range has one.
    """
    count = max(1, min(count, size))
    unit = ALIGN if size >= ALIGN * count else 1
    units = size // unit
    cuts = [units * at // count * unit for at in range(count)] + [size]
    return tuple(Span(start, stop) for start, stop in pairwise(cuts))


def place(before: Sequence[str], servers: Collection[str], count: int) -> tuple[str, ...]:
    """The owner of each shard: as many for each server as can be, and no shard moves that need not.

    `before` are the owners until now, empty at the beginning. A shard whose owner is gone, or has more than its share,
    goes to the server with the fewest (by name where they are equal): the same input gives the same owners everywhere.
    """
    names = sorted(set(servers))
    if not names:
        return tuple(before)
    most, whole = -(-count // len(names)), count % len(names) or len(names)
    load = dict.fromkeys(names, 0)
    owners = [""] * count
    full = 0
    for at, owner in enumerate(before[:count]):
        room = load.get(owner, most) < most - 1 or (load.get(owner, most) == most - 1 and full < whole)
        if room:
            load[owner] += 1
            full += load[owner] == most
            owners[at] = owner
    for at in range(count):
        if not owners[at]:
            owners[at] = min(names, key=lambda name: (load[name], name))
            load[owners[at]] += 1
    return tuple(owners)
