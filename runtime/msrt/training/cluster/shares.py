"""Who takes which samples. Pure."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["bounds", "mine"]


def bounds(length: int, parts: int) -> list[tuple[int, int]]:
    """`length` in so many runs, the first ones longer by one where it does not divide; some may be empty."""
    size, more = divmod(length, parts)
    return list(pairwise(at * size + min(at, more) for at in range(parts + 1)))


def mine(length: int, rank: int, world: int, micro: int) -> list[tuple[int, int]]:
    """This rank's micro-batches of a step: as many on every rank, since each is a collective; some may be empty."""
    low, high = bounds(length, world)[rank]
    return [(low + start, low + stop) for start, stop in bounds(high - low, micro)]
