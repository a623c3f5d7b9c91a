"""What the pushes of a round said."""

from __future__ import annotations

from msrt.protocol.messages import Push

__all__ = ["JUDGED", "Tally"]

JUDGED = "judged"
"""Among a push's metrics: the test samples on which the others of them were measured."""
TRAIN_LOSS = "train_loss"


class Tally:
    """Of one round on one server: means over workers, and what became of their pushes."""

    def __init__(self) -> None:
        self.counted = self.late = self.refused = 0
        """Pushes."""
        self.gap = 0
        """The most that a worker was ahead of another."""
        self.waited: dict[str, int] = {}
        """Worker to how often it had to wait for others."""
        self.samples: dict[str, int] = {}
        """Worker to samples, in this round."""
        self.judged: dict[str, dict[str, float]] = {}
        """Worker to what it found of the weights that it had at the round's beginning."""
        self._loss = 0.0

    def add(self, push: Push) -> None:
        """A push that counts."""
        self.counted += 1
        self.samples[push.worker] = self.samples.get(push.worker, 0) + push.samples
        self._loss += push.metrics.get(TRAIN_LOSS, 0.0) * push.samples
        if push.metrics.get(JUDGED):
            self.judged[push.worker] = dict(push.metrics)

    def metrics(self) -> dict[str, float]:
        """Means: the test metrics by test samples, `train_loss` by training samples; then the counts."""
        found: dict[str, float] = {}
        total = sum(said[JUDGED] for said in self.judged.values())
        for said in self.judged.values():
            for name, value in said.items():
                if name not in (JUDGED, TRAIN_LOSS):
                    found[name] = found.get(name, 0.0) + value * said[JUDGED] / total
        samples = sum(self.samples.values())
        if samples:
            found[TRAIN_LOSS] = self._loss / samples
        counts = {"pushes": self.counted, "samples": samples, "late_pushes": self.late, "gap": self.gap}
        return found | {name: float(value) for name, value in counts.items()}
