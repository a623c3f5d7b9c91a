"""Copies of requests for a candidate version: which ones, and what its answers say beside those that were given. Pure.

Nothing here is ever waited for. A copy is made after its request was answered, waits in a short line for a moment in
which a worker has nothing else to do, and is the first to go when that moment does not come.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from math import log2
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Line", "Report", "ShadowView", "divergence", "merge"]

KEPT: Final = 512
"""Latencies and other samples that a report remembers."""
CLASSES: Final = 4096
BINS: Final = 16
APART: Final = 0.1
"""Relative difference above which answers without classes disagree."""
EDGES_FROM: Final = 256
"""Values of the primary by which the bins of an output without classes are laid."""


class Line:
    """Copies that wait, and those that are on their way."""

    def __init__(self, share: float, *, waiting: int = 32, flying: int = 4, age_s: float = 5.0) -> None:
        self._share, self._flying, self._age_s = share, flying, age_s
        self._bound = waiting
        self._owed = 0.0
        self._waiting: deque[tuple[float, Any]] = deque()
        self.flying = self.dropped = self.copied = 0

    def wants(self) -> bool:
        """Is this one of the share? Every nth of them, not by chance."""
        self._owed += self._share
        if self._owed < 1 - 1e-9:
            return False
        self._owed -= 1
        return True

    def put(self, copy: object, now: float) -> None:
        """Wait; the oldest goes when there are too many."""
        self._waiting.append((now, copy))
        if len(self._waiting) > self._bound:
            self._waiting.popleft()
            self.dropped += 1

    def take(self, room: int, now: float) -> list[Any]:
        """Those that may fly now: `room` is how many workers would else do nothing."""
        while self._waiting and now - self._waiting[0][0] > self._age_s:
            self._waiting.popleft()
            self.dropped += 1
        count = min(room, self._flying - self.flying, len(self._waiting))
        taken = [self._waiting.popleft()[1] for _ in range(max(0, count))]
        self.flying += len(taken)
        self.copied += len(taken)
        return taken

    def landed(self) -> None:
        self.flying -= 1

    def __len__(self) -> int:
        return len(self._waiting)


class ShadowView(msgspec.Struct):
    """What is known of a candidate, as it travels: counts and sums, so that those of several edges add up."""

    model: str
    version: int
    against: int = 0
    """The version whose answers were given."""
    copies: int = 0
    dropped: int = 0
    failed: int = 0
    rows: int = 0
    agreed: int = 0
    """Rows where the classes are the same; 0 of 0 without classes."""
    classified: int = 0
    difference: float = 0.0
    """Sum over copies of the relative difference of the first output."""
    primary_us: list[int] = []
    shadow_us: list[int] = []
    primary_classes: dict[str, int] = {}
    shadow_classes: dict[str, int] = {}
    """Class number, or bin, to rows."""

    def summary(self) -> dict[str, Any]:
        """For people: shares, percentiles, and the shift of the outputs (Jensen-Shannon, 0 to 1; PSI)."""
        compared = max(1, self.copies - self.failed)
        drift, psi = divergence(self.primary_classes, self.shadow_classes)
        return {
            "model": self.model, "version": self.version, "against": self.against, "copies": self.copies,
            "rows": self.rows, "dropped": self.dropped, "failed": self.failed,
            "agreement": self.agreed / self.classified if self.classified else None,
            "difference": self.difference / compared, "drift": drift, "psi": psi,
            "primary_p50_us": _quantile(self.primary_us, 0.5), "primary_p99_us": _quantile(self.primary_us, 0.99),
            "shadow_p50_us": _quantile(self.shadow_us, 0.5), "shadow_p99_us": _quantile(self.shadow_us, 0.99),
        }  # fmt: skip


class Report:
    """What one edge has seen of one candidate. Bounded: samples in rings, classes up to a count."""

    def __init__(self, model: str, version: int) -> None:
        self.model, self.version, self.against = model, version, 0
        self.copies = self.failed = self.rows = self.agreed = self.classified = 0
        self.judged = self.disagreed = 0
        """Copies compared, and those whose first row differs: one verdict a copy, for rows of a request are akin."""
        self.difference = 0.0
        self._primary_us: deque[int] = deque(maxlen=KEPT)
        self._shadow_us: deque[int] = deque(maxlen=KEPT)
        self._primary: Counter[str] = Counter()
        self._shadow: Counter[str] = Counter()
        self._edges: NDArray[np.float64] | None = None

    def failure(self) -> None:
        """The candidate did not answer."""
        self.copies += 1
        self.failed += 1

    def compared(self, primary: NDArray[Any], shadow: NDArray[Any], primary_s: float, shadow_s: float) -> None:
        """The first output of both, rows along axis 0. Other shapes or dtypes than numbers count as disagreement."""
        self.copies += 1
        self._primary_us.append(round(primary_s * 1e6))
        self._shadow_us.append(round(shadow_s * 1e6))
        rows = len(primary) if primary.ndim else 1
        self.rows += rows
        self.judged += 1
        if primary.shape != shadow.shape or primary.dtype.kind not in "fiub" or shadow.dtype.kind not in "fiub":
            same = primary.shape == shadow.shape and bool((primary == shadow).all())
            self.classified += rows
            self.agreed += rows * same
            self.difference += 0.0 if same else 1.0
            self.disagreed += not same
            return
        one, other = primary.astype(np.float64), shadow.astype(np.float64)
        scale = np.abs(one).mean() + np.abs(other).mean()
        apart = float(2 * np.abs(one - other).mean() / scale) if scale else 0.0
        self.difference += apart
        if primary.ndim == 2 and primary.shape[1] > 1:
            self._classes(one.argmax(axis=1), other.argmax(axis=1))
        elif primary.dtype.kind != "f":
            self._classes(one.reshape(rows, -1)[:, 0].astype(np.int64), other.reshape(rows, -1)[:, 0].astype(np.int64))
        else:
            self.disagreed += apart > APART
            self._binned(one.ravel(), other.ravel())

    def _classes(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        self.classified += len(one)
        self.agreed += int((one == other).sum())
        self.disagreed += bool(len(one) and one[0] != other[0])
        for counts, found in ((self._primary, one), (self._shadow, other)):
            for number in found.tolist():
                key = str(number)
                counts[key if key in counts or len(counts) < CLASSES else "other"] += 1

    def _binned(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        if self._edges is None:
            inside = np.linspace(0, 1, BINS + 1)[1:-1]
            self._edges = np.quantile(one[:EDGES_FROM], inside)
        for counts, found in ((self._primary, one), (self._shadow, other)):
            for place in np.searchsorted(self._edges, found[:EDGES_FROM]).tolist():
                counts[f"bin{place}"] += 1

    def view(self, dropped: int) -> ShadowView:
        """As it travels."""
        return ShadowView(
            self.model, self.version, self.against, self.copies, dropped, self.failed, self.rows, self.agreed,
            self.classified, self.difference, list(self._primary_us), list(self._shadow_us), dict(self._primary),
            dict(self._shadow),
        )  # fmt: skip


def merge(views: Sequence[ShadowView]) -> ShadowView:
    """Of several edges, one. They speak of one model and version."""
    out = ShadowView(views[0].model, views[0].version, max(view.against for view in views))
    for view in views:
        for name in ("copies", "dropped", "failed", "rows", "agreed", "classified", "difference"):
            setattr(out, name, getattr(out, name) + getattr(view, name))
        out.primary_us = out.primary_us + view.primary_us
        out.shadow_us = out.shadow_us + view.shadow_us
        out.primary_classes = dict(Counter(out.primary_classes) + Counter(view.primary_classes))
        out.shadow_classes = dict(Counter(out.shadow_classes) + Counter(view.shadow_classes))
    return out


def divergence(one: dict[str, int], other: dict[str, int]) -> tuple[float, float]:
    """Jensen-Shannon divergence in bits (0: the same, 1: nothing in common) and the population stability index, with
    half a count added to each class."""
    keys = sorted({*one, *other})
    if not keys or not sum(one.values()) or not sum(other.values()):
        return 0.0, 0.0
    p_all, q_all = sum(one.values()), sum(other.values())
    drift = psi = 0.0
    for key in keys:
        p, q = one.get(key, 0) / p_all, other.get(key, 0) / q_all
        middle = (p + q) / 2
        drift += sum(share * log2(share / middle) / 2 for share in (p, q) if share)
        p_soft = (one.get(key, 0) + 0.5) / (p_all + 0.5 * len(keys))
        q_soft = (other.get(key, 0) + 0.5) / (q_all + 0.5 * len(keys))
        psi += (q_soft - p_soft) * log2(q_soft / p_soft) * 0.6931471805599453
    return max(0.0, min(1.0, drift)), psi


def _quantile(values: Sequence[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0
