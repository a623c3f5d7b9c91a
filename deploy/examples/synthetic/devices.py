"""Synthetic(alpha, beta) of "Federated Optimization in Heterogeneous Networks" (FedProx, Li 2020), section 5.1."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

FEATURES, CLASSES = 60, 10
TRAINED = 0.9
"""Of a device's samples; the rest judge."""
Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


@cache
def devices(alpha: float, beta: float, count: int, seed: int) -> list[Samples]:
    """Samples of each device. `alpha`: how far their models differ; `beta`: how far their data do.

    Device k: y = argmax(W x + b), W and b of N(u, 1), u ~ N(0, alpha); x ~ N(v, S), S_jj = j ** -1.2, v_j ~ N(B, 1),
    B ~ N(0, beta). Sizes follow a power law: 50 and a log-normal (4, 2) more. Dice are thrown in the order of the
    authors' program and from the generator that it used, so a seed gives the devices that it gives there.
    """
    dice = np.random.RandomState(seed)
    sizes = dice.lognormal(4, 2, count).astype(int) + 50
    models, places = dice.normal(0, alpha, count), dice.normal(0, beta, count)
    spread = np.diag(np.arange(1, FEATURES + 1) ** -1.2)
    centres = [dice.normal(place, 1, FEATURES) for place in places]
    found = []
    for size, u, centre in zip(sizes, models, centres, strict=True):
        weights, bias = dice.normal(u, 1, (FEATURES, CLASSES)), dice.normal(u, 1, CLASSES)
        values = dice.multivariate_normal(centre, spread, size)
        found.append((values.astype(np.float32), np.argmax(values @ weights + bias, axis=1)))
    return found
