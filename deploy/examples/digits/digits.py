"""The data of the example: which images there are, whose they are, which are held out. Needs numpy alone."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
FOLDS = 5


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pixels in 0..1 and labels, from the file that scikit-learn ships (importing scikit-learn costs a CPU second)."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn: pip install 'msrt[train]'")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64)


def owners(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The node of each image: of a class, nine tenths go to the nodes that favour it, the rest to anybody.

    Favoured classes of node i are the ten classes cut into `count` overlapping runs of three or four.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(CLASSES)
    width = max(3, -(-CLASSES // count))
    favoured = [{int(order[(i * CLASSES // count + j) % CLASSES]) for j in range(width)} for i in range(count)]
    owner = np.empty(len(labels), np.int64)
    for at, label in enumerate(labels):
        fans = [i for i in range(count) if int(label) in favoured[i]]
        anybody = not fans or rng.random() < 0.04
        owner[at] = rng.integers(count) if anybody else fans[rng.integers(len(fans))]
    return owner


def held_out(length: int, fold: int, split: int) -> NDArray[np.bool_]:
    """The images that this fold judges by; which fold an image is in depends on its index alone."""
    return np.random.default_rng(split).permutation(length) % FOLDS == fold
