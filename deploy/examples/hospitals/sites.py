"""The data of the example: scikit-learn's breast_cancer (Wisconsin, 569 tumours of 30 measures), split over sites."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = 30
FOLDS = 5
SKEW = 1.0
"""Of the Dirichlet distributions by which sites share the benign and the malignant: the smaller, the more unequal."""


@cache
def tumours() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Measures [569, 30] about 0, and 1 where benign. Read from the file that scikit-learn ships: to import it costs a
    second."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the tumours come with scikit-learn: pip install 'msrt[train]'")
    file = Path(found.origin).parent / "datasets" / "data" / "breast_cancer.csv"
    table = np.loadtxt(file, delimiter=",", skiprows=1)
    logs = np.log(table[:, :-1] + 1e-3)
    return ((logs - logs.mean(axis=0)) / logs.std(axis=0)).astype(np.float32), table[:, -1].astype(np.int64)


def site_of(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The site of each tumour: every site has its own share of the benign and of the malignant, and 8 of each at least
    where there are enough."""
    rng = np.random.default_rng(seed)
    owner = np.empty(len(labels), np.int64)
    for kind in (0, 1):
        those = rng.permutation(np.flatnonzero(labels == kind))
        sure = np.repeat(np.arange(count), min(8, len(those) // count))
        rest = rng.choice(count, len(those) - len(sure), p=rng.dirichlet(np.full(count, SKEW)))
        owner[those] = np.concatenate([sure, rest])
    return owner


def held_out(length: int, fold: int, seed: int) -> NDArray[np.bool_]:
    """The tumours that this fold judges by; which fold one is in depends on its place alone."""
    return np.random.default_rng(seed + 1).permutation(length) % FOLDS == fold
