"""Zeros to warm a model with, and how long one call takes. Knows no engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msrt.inference.model import Runs
from msrt.inference.tensors import COMPUTE_NAMES
from msrt.protocol.messages import TensorSpec

__all__ = ["measure", "sample_inputs"]

Array = NDArray[Any]


def sample_inputs(
    inputs: tuple[TensorSpec, ...], shapes: dict[str, tuple[int, ...]], *, rows: int = 1, batchable: bool = False
) -> dict[str, Array]:
    """Zeros to warm up and measure with: `shapes` by input name, else 1 for every free dimension.

    `rows` sets axis 0 where the model is `batchable`.
    """
    made: dict[str, Array] = {}
    for spec in inputs:
        shape = shapes.get(spec.name) or tuple(1 if size < 0 else size for size in spec.shape)
        if batchable:
            shape = (rows, *shape[1:])
        empty: Array = np.full(shape, "", dtype=object)
        made[spec.name] = empty if spec.dtype == "BYTES" else np.zeros(shape, dtype=COMPUTE_NAMES[spec.dtype])
    return made


def measure(
    model: Runs, inputs: dict[str, Array], now: Callable[[], float], *, calls: int = 30, budget_s: float = 0.5
) -> int:
    """Microseconds of one call: the median of up to `calls` within about `budget_s`, after three to warm up."""
    for _ in range(3):
        model.run(inputs)
    times: list[float] = []
    begun = now()
    while len(times) < calls and (not times or now() - begun < budget_s):
        before = now()
        model.run(inputs)
        times.append(now() - before)
    return max(1, round(sorted(times)[len(times) // 2] * 1e6))
