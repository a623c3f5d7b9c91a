"""Who shares masks with whom: a ring of random order, each with its nearest on both sides (SecAgg+, Bell 2020).

All pairs would cost each node one stream of the model's length for each other node; logarithmically many are enough.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from typing import Final

__all__ = ["MINIMUM", "degree", "neighbours", "shuffled", "threshold_of"]

MINIMUM: Final = 3
"""Nodes of a sum: of two each would know the other's update."""
RISK: Final = 1e-4
"""How often may a round fail because too many neighbours of one node dropped out."""


def threshold_of(neighbours: int, share: float) -> int:
    """Shares that give a secret back: `share` of the neighbours, and always more than half of them.

    For who holds a share gives away the one kind or the other, a liar cannot get both from halves.
    """
    return max(neighbours // 2 + 1, math.ceil(share * neighbours - 1e-9))


@functools.lru_cache(maxsize=256)
def degree(count: int, dropouts: float, share: float) -> int:
    """The fewest neighbours with which a round of so many nodes survives that share of drop-outs, but for RISK.

    A node's secrets are lost when more of its neighbours drop out than are over its threshold: a hypergeometric tail,
    times the nodes. Even, or all others.
    """
    gone = math.ceil(dropouts * count - 1e-9)
    for found in range(2, count - 1, 2):
        spare = found - threshold_of(found, share)
        ways = sum(
            math.comb(gone, lost) * math.comb(count - 1 - gone, found - lost)
            for lost in range(spare + 1, min(found, gone) + 1)
        )
        if count * ways <= RISK * math.comb(count - 1, found):
            return found
    return count - 1


def shuffled(nodes: Iterable[str], seed: bytes) -> list[str]:
    """An order that follows from the seed alone."""
    return sorted(nodes, key=lambda node: hashlib.sha256(seed + node.encode()).digest())


def neighbours(count: int, wanted: int) -> list[tuple[int, ...]]:
    """Of each of `count` nodes on the ring, ascending: `wanted` of them (one more where that is odd), or all others."""
    if wanted >= count - 1:
        return [tuple(other for other in range(count) if other != one) for one in range(count)]
    reach = range(1, (wanted + 1) // 2 + 1)
    return [tuple(sorted({(one + sign * far) % count for far in reach for sign in (1, -1)})) for one in range(count)]
