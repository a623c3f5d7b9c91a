"""Who takes which samples, where a model is cut, which layers go together, which batch fits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

__all__ = ["bounds", "column_row_pairs", "cut", "equal_parts", "largest", "mine"]

COLUMN: Final = frozenset(("up", "up_proj", "gate", "gate_proj", "fc1", "w1", "w3", "linear1"))
"""Names of the layers that begin a feed-forward block: their output features are divided."""
ROW: Final = frozenset(("down", "down_proj", "fc2", "w2", "linear2"))
"""Names of those that end it: their input features are divided, their outputs summed."""
START: Final = 512
GRAIN: Final = 8
"""A batch is the largest within an eighth of it."""


def bounds(length: int, parts: int) -> list[tuple[int, int]]:
    """`length` in so many runs, the first ones longer by one where it does not divide; some may be empty."""
    size, more = divmod(length, parts)
    return list(pairwise(at * size + min(at, more) for at in range(parts + 1)))


def mine(length: int, rank: int, world: int, micro: int) -> list[tuple[int, int]]:
    """This rank's micro-batches of a step: as many on every rank, since each is a collective; some may be empty."""
    low, high = bounds(length, world)[rank]
    return [(low + start, low + stop) for start, stop in bounds(high - low, micro)]


def equal_parts(length: int, least: int) -> int:
    """The smallest number of equal parts that is at least so many; `length` where that is less."""
    return next((parts for parts in range(least, length) if length % parts == 0), length)


def cut(sizes: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Layers of these sizes in `parts` runs, none empty, the largest as small as it can be. Raises ValueError."""
    if not 1 <= parts <= len(sizes):
        raise ValueError(f"{len(sizes)} layers cannot be cut into {parts} stages")
    total = [0]
    for size in sizes:
        total.append(total[-1] + size)
    best: dict[tuple[int, int], tuple[int, int]] = {(0, 0): (0, 0)}
    for part in range(1, parts + 1):
        for stop in range(part, len(sizes) - (parts - part) + 1):
            before = [start for start in range(part - 1, stop) if (part - 1, start) in best]
            best[part, stop] = min((max(best[part - 1, at][0], total[stop] - total[at]), at) for at in before)
    stages, stop = [], len(sizes)
    for part in range(parts, 0, -1):
        start = best[part, stop][1]
        stages.append((start, stop))
        stop = start
    return stages[::-1]


def column_row_pairs(
    linears: Mapping[str, tuple[int, int]], sequences: Iterable[Sequence[tuple[str, bool]]], world: int
) -> dict[str, str]:
    """Which linear layers are divided by "column" and which by "row", found by their names and order.

    linears: name -> (inputs, outputs). sequences: of each nn.Sequential, its modules' names in order and whether each
    is elementwise (an activation). Two layers go together when they have one parent and their names say so, or
    when nothing but elementwise modules stands between them.
    """
    plan: dict[str, str] = {}
    families: dict[str, dict[str, str]] = {}
    for name in linears:
        parent, _, last = name.rpartition(".")
        families.setdefault(parent, {})[last] = name
    for family in families.values():
        columns = [name for last, name in family.items() if last in COLUMN]
        rows = [name for last, name in family.items() if last in ROW]
        even = all(linears[name][1] % world == 0 for name in columns) and all(linears[r][0] % world == 0 for r in rows)
        if columns and len(rows) == 1 and even:
            plan |= dict.fromkeys(columns, "column") | {rows[0]: "row"}
    for sequence in sequences:
        open_ = ""
        for name, elementwise in sequence:
            if name in linears and open_ and linears[open_][1] == linears[name][0]:
                plan |= {open_: "column", name: "row"}
                open_ = ""
            elif name in linears:
                open_ = name if linears[name][1] % world == 0 and name not in plan else ""
            elif not elementwise:
                open_ = ""
    return plan


def largest(fits: Callable[[int], bool], bound: int, start: int = START) -> int:
    """The largest batch found by trying, up to `bound`: doubled while it fits, halved until it does, then narrowed.

    0 where not even one sample fits.
    """
    low, high = 0, bound + 1
    size = min(start, bound)
    while high - low > max(1, low // GRAIN):
        if fits(size):
            low = size
        else:
            high = size
        if high > bound:
            size = min(2 * low, bound)
        elif low == 0:
            size = max(1, high // 2)
        else:
            size = (low + high) // 2
        if size == low:
            break
    return low
