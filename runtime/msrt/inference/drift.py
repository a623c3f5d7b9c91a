"""How far readings are from those that a model was made with: the population stability index, feature by feature. Pure.

A reading's features are its mean, its deviation and up to 32 of its elements. Of the calibration data, or else the
evaluation data, of a push five quantiles of each feature are kept in the manifest; a device counts its own readings
between them. (More bins see no more, and chance moves them further.) PSI is the sum of (p - q) ln(p / q) over the
shares p here and q there; what chance alone gives on average, (bins - 1) (1/n + 1/m), is taken off. Below 0.1 nothing
has changed, above 0.25 much has. Readings that resemble their neighbours need longer windows than independent ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.inference.reference import EDGES, Reference

__all__ = ["LEAST", "Window", "features", "reference_of"]

ELEMENTS: Final = 32
"""Of a larger reading so many, evenly spread."""
LEAST: Final = 50
"""Of fewer samples no quantiles are taken."""

Floats = NDArray[np.float32]


def bins_of(reference: Reference) -> tuple[Floats, NDArray[np.uint32]]:
    """(edges, counts)."""
    edges = np.frombuffer(reference.edges, "<f4").reshape(-1, EDGES)
    return edges, np.frombuffer(reference.counts, "<u4").reshape(-1, EDGES + 1)


def features(reading: Any) -> Floats:
    """Mean, deviation, elements. Raises ValueError, TypeError for what is no numbers."""
    flat = np.asarray(reading, np.float32).reshape(-1)
    if not flat.size:
        raise ValueError("an empty reading")
    some = flat if flat.size <= ELEMENTS else flat[np.linspace(0, flat.size - 1, ELEMENTS).astype(np.intp)]
    return np.concatenate([[flat.mean(), flat.std()], some]).astype(np.float32)


def name_of(feature: int, size: int) -> str:
    """What people call it; `size` is the number of features."""
    return ("mean", "std")[feature] if feature < 2 else f"element {feature - 2} of {size - 2}"


def reference_of(readings: Iterable[Any]) -> Reference | None:
    """Of a model's data; None where there is too little of it, or no numbers."""
    try:
        rows = np.stack([features(reading) for reading in readings])
    except (ValueError, TypeError):
        return None
    if len(rows) < LEAST or not np.isfinite(rows).all():
        return None
    edges = np.full((rows.shape[1], EDGES), np.nan, np.float32)
    counts = np.zeros((rows.shape[1], EDGES + 1), np.uint32)
    for feature, column in enumerate(rows.T):
        inner = np.quantile(column, np.linspace(0.1, 0.9, EDGES - 2)).astype(np.float32)
        found = np.unique(np.concatenate([[np.nextafter(column.min(), np.float32(-np.inf))], inner, [column.max()]]))
        edges[feature, : len(found)] = found
        counts[feature] = np.bincount(np.searchsorted(found, column), minlength=EDGES + 1)
    return Reference(len(rows), edges.astype("<f4").tobytes(), counts.astype("<u4").tobytes())


class Window:
    """Readings counted between a reference's quantiles."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._edges, self._known = bins_of(reference)
        self._counts = np.zeros_like(self._known)
        self._rows = np.arange(len(self._edges))
        self.readings = 0

    def add(self, reading: Any) -> None:
        """Count one; another shape than the reference's, or NaN in it, is not. Raises what `features` does."""
        found = features(reading)
        if len(found) != len(self._edges) or not np.isfinite(found).all():
            return
        self._counts[self._rows, (self._edges < found[:, None]).sum(axis=1)] += 1
        self.readings += 1

    def drift(self) -> tuple[float, str]:
        """PSI of the feature that moved most, at least 0, and its name."""
        if not self.readings:
            return 0.0, ""
        here, there = self.readings, self._reference.samples
        bins = (~np.isnan(self._edges)).sum(axis=1) + 1
        used = np.arange(EDGES + 1) < bins[:, None]
        p = (self._counts + 0.5) / (here + 0.5 * bins[:, None])
        q = (self._known + 0.5) / (there + 0.5 * bins[:, None])
        psi = np.where(used, (p - q) * np.log(p / q), 0.0).sum(axis=1) - (bins - 1) * (1 / here + 1 / there)
        most = int(psi.argmax())
        return max(0.0, float(psi[most])), name_of(most, len(psi))
