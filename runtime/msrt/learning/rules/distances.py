"""Rules that choose whole updates by how near the others are (Krum, Blanchard 2017). float64 throughout."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matrix", "bulyan_set", "krum", "squared_distances"]

Matrix: TypeAlias = NDArray[np.float64]


def squared_distances(products: Matrix) -> Matrix:
    """[nodes, nodes] of their inner products as squared Euclidean distances."""
    squares = np.diag(products)
    distances: Matrix = squares[:, None] + squares[None, :] - 2.0 * products
    np.maximum(distances, 0.0, out=distances)
    np.fill_diagonal(distances, 0.0)
    return distances


def krum(distances: Matrix, liars: int, kept: int = 1) -> list[int]:
    """The `kept` nodes of the lowest score, best first; the score is the sum of squared distances to the
    nodes - liars - 2 nearest others (at least one).
    """
    nodes = len(distances)
    nearest = max(1, nodes - liars - 2)
    scores = np.sort(distances, axis=1)[:, 1 : nearest + 1].sum(axis=1)
    return [int(at) for at in np.argsort(scores, kind="stable")[:kept]]


def bulyan_set(distances: Matrix, liars: int) -> list[int]:
    """The nodes - 2 liars that Krum chooses one after the other, each among those that are left (El Mhamdi 2018)."""
    left, chosen = list(range(len(distances))), []
    for _ in range(len(distances) - 2 * liars):
        (best,) = krum(distances[np.ix_(left, left)], liars)
        chosen.append(left.pop(best))
    return chosen
