"""Rules that look at one coordinate at a time. `rows` is [nodes, coordinates], float32.

Sorting is done with the nodes along the fast axis: some hundreds of millions of elements a second, seven times
numpy's median along the slow one.
"""

from __future__ import annotations

import numpy as np

from msrt.learning.vector import Vector

__all__ = ["median", "near_median", "trimmed"]


def _sorted(rows: Vector) -> Vector:
    """[coordinates, nodes], ascending."""
    columns = np.ascontiguousarray(rows.T)
    columns.sort(axis=1)
    return columns


def _middle(columns: Vector) -> Vector:
    half, odd = divmod(columns.shape[1], 2)
    if odd:
        return columns[:, half]
    middle: Vector = (columns[:, half - 1] + columns[:, half]) * np.float32(0.5)
    return middle


def median(rows: Vector, out: Vector) -> None:
    """The middle one, or the mean of the two (Yin 2018)."""
    out[:] = _middle(_sorted(rows))


def trimmed(rows: Vector, cut: int, out: Vector) -> None:
    """The mean of what is left without the `cut` smallest and largest (Yin 2018)."""
    columns = _sorted(rows)
    columns[:, cut : columns.shape[1] - cut].mean(axis=1, out=out)


def near_median(rows: Vector, count: int, out: Vector) -> None:
    """The mean of the `count` that are nearest to the median (second step of Bulyan, El Mhamdi 2018).

    In order they are neighbours, so what is looked for is where they begin.
    """
    columns = _sorted(rows)
    middle = np.ascontiguousarray(_middle(columns))
    ranks = np.ascontiguousarray(columns.T)  # again by nodes: each step below goes along all coordinates
    total = ranks[:count].sum(axis=0, dtype=np.float64)
    best, best_total = _reach(ranks, middle, 0, count), total.copy()
    for first in range(1, len(ranks) - count + 1):
        total += ranks[first + count - 1]
        total -= ranks[first - 1]
        reach = _reach(ranks, middle, first, count)
        nearer = reach < best
        np.copyto(best, reach, where=nearer)
        np.copyto(best_total, total, where=nearer)
    np.divide(best_total, count, out=out, casting="same_kind")


def _reach(ranks: Vector, middle: Vector, first: int, count: int) -> Vector:
    """How far the farther end of those neighbours is from the median."""
    reach: Vector = np.maximum(middle - ranks[first], ranks[first + count - 1] - middle)
    return reach
