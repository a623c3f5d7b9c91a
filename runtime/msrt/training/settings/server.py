"""How what the nodes did becomes the next model."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from msrt.learning.optimise import ADAPTIVE, Kind, Recipe
from msrt.learning.schedule import SCHEDULE, Schedule
from msrt.training.settings.base import Count, Decay, Rate, Table

__all__ = ["ServerSettings"]

SCHEDULES: Final = "constant, step:EVERY:FACTOR (as step:10:0.5), cosine or cosine:FLOOR (as cosine:0.1)"
RATE: Final = 1.0
ADAPTIVE_RATE: Final = 0.01
"""An adaptive step is about as long as the rate, in every element."""


class ServerSettings(Table, frozen=True):
    """[server]: how the mean of the updates moves the model. See msrt.learning.optimise."""

    optimiser: Kind = "sgd"
    lr: Rate | None = None
    """Left out: 1 for sgd and momentum (the mean as it is), 0.01 for adam, yogi and adagrad."""
    schedule: Annotated[str, msgspec.Meta(pattern=SCHEDULE, description=SCHEDULES)] = "constant"
    """Of lr over the rounds: constant, step:EVERY:FACTOR, cosine or cosine:FLOOR."""
    warmup: Count = 0
    """So many rounds climb to lr first."""
    momentum: Decay | None = None
    """Of `momentum`; left out: 0.9."""
    nesterov: bool = False
    """Of `momentum`: look one step ahead."""
    beta1: Decay | None = None
    """Of adam, yogi and adagrad; left out: 0.9, for adagrad 0."""
    beta2: Decay | None = None
    """Of adam and yogi; left out: 0.99."""
    epsilon: Rate | None = None
    """Of adam, yogi and adagrad: how little they adapt; left out: 0.001."""
    bias_correction: bool = False
    """Of adam and yogi: as Kingma 2015; else as Reddi 2021."""

    def __post_init__(self) -> None:
        given = {name for name in ("momentum", "beta1", "beta2", "epsilon") if getattr(self, name) is not None}
        given |= {name for name in ("nesterov", "bias_correction") if getattr(self, name)}
        known = {"momentum": {"momentum", "nesterov"}, "adagrad": {"beta1", "epsilon"}}
        for name in sorted(given - known.get(self.optimiser, ADAPTIVE_KEYS if self.optimiser in ADAPTIVE else set())):
            raise ValueError(f"[server] {name} says nothing to {self.optimiser}")

    @property
    def recipe(self) -> Recipe:
        """For the optimiser."""
        plain = Recipe(self.optimiser)
        first = 0.0 if self.optimiser == "adagrad" else plain.beta1
        return Recipe(
            self.optimiser, _or(self.momentum, plain.momentum), self.nesterov, _or(self.beta1, first),
            _or(self.beta2, plain.beta2), _or(self.epsilon, plain.epsilon), self.bias_correction,
        )  # fmt: skip

    def rate(self, done: int, total: int) -> float:
        """Of the step after `done` of `total`."""
        base = _or(self.lr, ADAPTIVE_RATE if self.optimiser in ADAPTIVE else RATE)
        return base * Schedule(self.schedule, total, self.warmup).factor(done)


ADAPTIVE_KEYS: Final = frozenset({"beta1", "beta2", "epsilon", "bias_correction"})


def _or(said: float | None, usual: float) -> float:
    return usual if said is None else said
