"""Differential privacy: who adds noise to what, and how much of it may be spent."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from msrt.errors import InvalidJob
from msrt.training.settings.base import Rate, Share, Table
from msrt.training.settings.rounds import Compression

__all__ = ["Privacy", "clash", "noise_of"]

Mode = Literal["central", "local", "sample"]


class Privacy(Table, frozen=True):
    """[privacy]: the weights tell little of any one node, or of any one sample, as (epsilon, delta) say."""

    mode: Mode
    """central: the cloud adds noise to the sum of updates, each scaled down to norm `clip` (DP-FedAvg, McMahan 2018).
    local: each node adds noise to its own update before it leaves its process.
    sample: each node clips the gradient of each sample and adds noise in every step (DP-SGD, Abadi 2016)."""
    clip: Rate
    """Euclidean norm of one node's update; with `sample` of one sample's gradient."""
    noise: Rate | None = None
    """Standard deviation of the noise over `clip`. This, or `epsilon`."""
    epsilon: Rate | None = None
    """What all rounds of the job may spend: the noise follows from it."""
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    """Chance with which epsilon may not hold: well below one over the number of nodes (or samples)."""
    budget: Rate | None = None
    """The job ends before the round that would spend more than this epsilon; left out: `epsilon`, else no end."""
    rate: Share | None = None
    """Of `sample`: the chance of each sample to be in a step's batch, drawn anew in every step (Poisson)."""
    metrics: bool = False
    """Nodes tell loss and accuracy on their test data as well, as they are: the noise does not cover them."""

    def __post_init__(self) -> None:
        if (self.noise is None) == (self.epsilon is None):
            raise ValueError("[privacy] takes `noise` or `epsilon`, one of them")
        if (self.mode == "sample") != (self.rate is not None):
            raise ValueError("[privacy] `rate` belongs to mode 'sample', and there it must be given")

    @property
    def limit(self) -> float:
        """The most epsilon that may be spent."""
        return self.budget or self.epsilon or math.inf

    def settled(self, noise: float) -> Privacy:
        """The same with the noise that keeps `epsilon`."""
        budget = self.limit if math.isfinite(self.limit) else None
        return msgspec.structs.replace(self, noise=noise, epsilon=None, budget=budget)


def clash(privacy: Privacy, links: Compression) -> str:
    """Why a job cannot travel like that, or nothing. What else it cannot be combined with is in `combinations`."""
    if privacy.mode == "central" and links.region != "fp32":
        return (
            f"[privacy] mode 'central' adds its noise to exact sums: [compression] region is {links.region!r}, it must "
            "be 'fp32' (rounding a region's sum would let one node change it by more than the clip)"
        )
    return ""


def noise_of(settings: Privacy, asked: float) -> float:
    """What a node adds, over the clip: the job's own word, else what the cloud found. Raises InvalidJob for none."""
    noise = settings.noise or asked
    if not noise > 0:
        raise InvalidJob(f"a job that is private by {settings.mode!r}, and no noise was asked for")
    return noise
