"""[privacy] in a simulation. Noise comes from the job's seed (of mode "sample" from the machine): else as in a tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from msrt.learning.aggregate import NormGuard
from msrt.learning.ledger import Ledger
from msrt.learning.noise import add_noise
from msrt.learning.vector import Vector
from msrt.training.accounting import account, question, reach
from msrt.training.private import shielded
from msrt.training.settings import JobConfig

__all__ = ["Hidden"]


class Hidden:
    """What one private job adds, and what it spends. Raises InvalidJob where dp-accounting is not here."""

    def __init__(self, config: JobConfig) -> None:
        assert config.privacy is not None
        self._account = account(question(config))
        self._settings = config.privacy.settled(self._account.noise * reach(config))
        self._seed = f"{config.name}/{config.seed}"
        self.noise = self._settings.noise or 0.0
        self._affordable = self._account.affordable(self._settings.limit)
        self.ledger = None if self._settings.mode == "central" else Ledger(self._affordable)
        """Of single nodes; None: each round counts for all of them."""
        self._least = config.least_nodes

    @classmethod
    def of(cls, config: JobConfig) -> Hidden | None:
        return None if config.privacy is None else cls(config)

    @property
    def clip(self) -> float:
        """To which masters scale updates down; 0: they do not."""
        return self._settings.clip if self._settings.mode == "central" else 0.0

    def guard(self) -> NormGuard:
        return NormGuard.for_private(0.0 if self._settings.mode == "central" else self.noise)

    def able(self, nodes: Iterable[str], number: int) -> list[str]:
        """Those that the round may ask: none where it may not be opened."""
        if self.ledger is None:
            return list(nodes) if number <= self._affordable else []
        left = [node for node in nodes if self.ledger.affords(node, number)]
        return left if len(left) >= self._least else []

    def asked(self, nodes: Iterable[str], number: int) -> None:
        """The round asks these."""
        if self.ledger is not None:
            self.ledger.asked(nodes, number)

    def told(self, number: int) -> dict[str, float]:
        """For its line: of the node that spent most, where each counts for itself."""
        ledger = self.ledger
        if ledger is None:
            return {"epsilon": self._account.after(number), "delta": self._settings.delta}
        spent = {"epsilon": self._account.after(ledger.most), "delta": self._settings.delta}
        return spent | {"nodes_spent": float(len(ledger.over(number + 1)))}

    def leaves(
        self, delta: Vector, metrics: Mapping[str, float], node: str, turn: int
    ) -> tuple[Vector, int, dict[str, float]]:
        """What leaves a node."""
        delta, told = shielded(self._settings, delta, metrics, self.noise, self._key(f"{node}/{turn}"))
        return delta, 1, told

    def noisy(self, mean: Vector, nodes: int, number: int) -> Vector:
        """What the cloud makes of the mean of so many."""
        if not self.clip:
            return mean
        return add_noise(mean, self.noise * self.clip / nodes, self._key(str(number)))

    def _key(self, what: str) -> bytes:
        return hashlib.sha256(f"{self._seed}/{what}".encode()).digest()
