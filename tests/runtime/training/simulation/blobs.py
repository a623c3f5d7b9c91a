"""A small task: four clouds of points, a linear model; what a node holds follows from its index."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import torch

from msrt.training.local import Local
from msrt.training.settings import parse_config
from msrt.training.simulation import Chances, Shape, Simulation
from msrt.training.task import Data, Node, Task

CENTRES = np.array([[2, 0], [-2, 0], [0, 2], [0, -2]], np.float32)


class Blobs(Task):
    """`options`: `empty` names nodes without data, `wild` nodes whose data is not finite, `liars` nodes that train on
    wrong labels of many points."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(2, 4)

    def data(self, node: Node) -> tuple[Data, Data]:
        rng = np.random.default_rng(node.index)
        count = 0 if node.id in self.options.get("empty", ()) else 20 + 5 * node.index
        labels = rng.integers(4, size=count)
        points = (CENTRES[labels] + rng.normal(0, 0.5, (count, 2))).astype(np.float32)
        if node.id in self.options.get("wild", ()):
            points[:] = np.nan
        half = count // 2
        test = points[half:], labels[half:]
        if node.id in self.options.get("liars", ()):
            return (np.repeat(5 * points, 8, axis=0), np.repeat((labels + 1) % 4, 8)), test
        return (points[:half], labels[:half]), test


TREE = Shape((2,), 6)
CALM = Chances()


def simulation(
    toml: str = "", *, rounds: int = 4, shape: Shape = TREE, chances: Chances = CALM, **options: Any
) -> Simulation:
    """A job with these settings."""
    torch.set_num_threads(1)  # as in a node's process
    config = parse_config(f'name = "blobs"\ntask = "blobs:Blobs"\nrounds = {rounds}\n{toml}')
    config = msgspec.structs.replace(config, options=options)
    return Simulation(Local(Blobs(options), config), shape, time.monotonic, time.time, chances=chances)
