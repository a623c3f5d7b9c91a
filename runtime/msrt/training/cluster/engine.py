"""One model on several processes, one step at a time: what the loop asks of a strategy, and which one is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from msrt.learning.vector import Layout, Vector
from msrt.training.cluster.data import Samples
from msrt.training.cluster.place import Place
from msrt.training.cluster.saved import Savable
from msrt.training.settings import JobConfig, TrainSettings
from msrt.training.task import Task

__all__ = ["Engine", "open_engine"]


class Engine(Savable, Protocol):
    """Its methods are collective: every rank calls them in the same order."""

    layout: Layout
    """Of the whole model."""
    batch: int
    """Samples of a step, over all ranks."""
    share: int
    """Which share of a step's samples is this rank's; ranks that divide a layer have the same."""
    world: int

    def begin(self, weights: Vector, settings: TrainSettings) -> None:
        """Load the weights; a new optimiser, nothing of an earlier round."""

    def step(self, samples: Samples, chosen: torch.Tensor) -> None:
        """One step of the optimiser on the mean loss of these samples."""

    def total(self) -> float:
        """The loss summed over all samples since the last call."""

    def weights(self) -> Vector | None:
        """Those of the whole model on rank 0."""


def open_engine(task: Task, config: JobConfig, place: Place, samples: Samples, directory: Path) -> Engine:
    """The engine that job.toml asks for. `samples` are for trials, whose results lie in the directory.

    Raises InvalidJob for a model that it cannot divide.
    """
    assert config.cluster is not None
    if config.cluster.strategy == "pipeline":
        from msrt.training.cluster.pipeline import Pipeline  # noqa: PLC0415 - each strategy brings its part of torch

        return Pipeline(task, config, place)
    from msrt.training.cluster.replicas import Replicas  # noqa: PLC0415

    return Replicas(task, config, place, samples, directory)
