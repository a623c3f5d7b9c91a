"""What both machines share: identity of the round, what is wrong with an update, what a node weighs."""

from __future__ import annotations

import enum
import math
from collections.abc import Container, Mapping
from typing import Final

import msgspec

from msrt.learning.aggregate import NormGuard, scale_down
from msrt.learning.events import Arrived
from msrt.learning.pacing import Pace
from msrt.protocol.messages import UpdateMeta

__all__ = ["PLAIN", "Metrics", "Phase", "Round", "Terms"]

SAMPLES_LIMIT: Final = 1 << 40


class Phase(enum.Enum):
    """open: collecting. sealed: a region's sum has gone up. closed: over."""

    OPEN = "open"
    SEALED = "sealed"
    CLOSED = "closed"


class Metrics:
    """Sample-weighted means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, metrics: Mapping[str, float], samples: int) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                total, weight = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value * samples, weight + samples)

    def mean(self) -> dict[str, float]:
        return {name: total / weight for name, (total, weight) in self._sums.items()}


class Terms(msgspec.Struct, frozen=True):
    """What a job says of its rounds."""

    most: int = SAMPLES_LIMIT
    """Samples that one node may weigh."""
    since: int = 0
    """Updates of earlier rounds, from this one on, are welcome as well; 0: of none."""
    power: float = 0.5
    """An update that is s rounds old weighs its samples times (1 + s) ** -power (FedBuff, Nguyen 2022: 1/2)."""
    goal: int = 0
    """Buffered: the round ends as soon as so many updates are here, whoever sent them; 0: when the pace says so."""
    counted: Mapping[str, int] = {}
    """Cloud: node to the newest round whose update was counted."""
    alone: bool = False
    """No region makes a sum, and the cloud takes none."""
    sums: bool = False
    """Region: below it are masters, which send sums."""
    least: int = 0
    """The job's rule needs all updates at once, and no fewer than this; 0: they are added as they come."""
    clip: float = 0.0
    """A node's update that is longer (L2) counts as one of this length in its direction; 0: none is."""
    steps: int = 1
    """Region: so many rounds of its own make this one. Their updates are worth nothing elsewhere."""
    step: int = 0
    """Region: which of them this is."""
    masked: bool = False
    """Region: updates are masked for its sum, and worth nothing outside of it."""

    def scale(self, norm: float) -> float:
        """What is left of an update of this norm."""
        return scale_down(norm, self.clip)

    def weight(self, age: int) -> float:
        """Of an update so many rounds old, against a fresh one."""
        return float((1 + age) ** -self.power)

    def counts(self, samples: int, age: int, norm: float) -> tuple[float, float]:
        """(weight in the mean, what is left of it) of an update so many rounds old.

        A late one weighs less beside fresh ones. In a buffer all may be as old, and no weight would tell: there each is
        shortened, and the mean is over whole samples, so that a stale buffer moves the model less (Nguyen 2022).
        """
        if self.goal:
            return float(samples), self.scale(norm) * self.weight(age)
        return samples * self.weight(age), self.scale(norm)


PLAIN: Final = Terms()


class Round:
    """One round of one job."""

    def __init__(self, job: str, round_: int, size: int, pace: Pace, guard: NormGuard | None, terms: Terms) -> None:
        self.job, self.round, self.size, self.pace, self.terms = job, round_, size, pace, terms
        self.guard = guard or NormGuard()
        self.phase = Phase.OPEN
        self.failed: dict[str, str] = {}
        self._met: float | None = None
        self._metrics = Metrics()

    @property
    def wake(self) -> float | None:
        """When to send the next Tick; None when there is nothing to wait for."""
        return self.pace.until(self._met) if self.phase is Phase.OPEN else None

    def _of_this(self, meta: UpdateMeta) -> bool:
        """Is it an update of this very round?"""
        return (meta.job, meta.round) == (self.job, self.round)

    def _late(self, meta: UpdateMeta) -> bool:
        """Is it an update of an earlier round that may still count?"""
        since = self.terms.since
        return meta.job == self.job and 0 < since <= meta.round < self.round and not meta.is_sum

    def _fault(self, event: Arrived, known: Container[str] | None) -> str:
        """What is wrong with an update, in one sentence, or nothing."""
        meta = event.meta
        if not (self._of_this(meta) or self._late(meta)):
            return f"an update of {meta.job} round {meta.round}; {self.job} is in round {self.round}"
        if not meta.nodes or (not meta.is_sum and len(meta.nodes) != 1):
            return f"an update of {len(meta.nodes)} nodes"
        if known is not None and not all(node in known for node in meta.nodes):
            return "an update of nodes that do not take part"
        if meta.error or event.fault:
            return meta.error or event.fault
        if meta.size != self.size:
            return f"an update of {meta.size} parameters, the model has {self.size}"
        if not all(0 < samples < SAMPLES_LIMIT for samples in meta.nodes.values()):
            return "an update that counts samples wrongly"
        return ""

    def _weights(self, meta: UpdateMeta) -> dict[str, int]:
        """What its nodes count for. A claim above the bound counts as the bound: nobody outweighs all the others."""
        return {node: min(samples, self.terms.most) for node, samples in meta.nodes.items()}
