"""Tasks small enough to be computed again by hand: least squares of a node's own."""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from msrt.training.settings import JobConfig
from msrt.training.task import Task

ROWS = 8
torch.set_num_threads(1)  # as in a node's process: threads that wait for each other cost more than such a model


class Quadratic(Task):
    """Node i minimises 1/2 * mean of (a_i x - b_i)^2 over the coordinates: gradients are known in closed form.

    All rows of a node are alike, so that every batch has the gradient of the whole.
    """

    CURVES = ((1.0, 3.0), (3.0, -1.0), (0.5, 2.0))
    """(a, b) of each node."""

    def model(self):
        model = torch.nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[4.0, -2.0]]))
        return model

    def data(self, node):
        a, b = self.CURVES[node.index % len(self.CURVES)]
        rows = int(self.options.get("rows", ROWS))
        empty = np.zeros((0, 2), np.float32)
        return (np.full((rows, 2), a, np.float32), np.full((rows, 2), b, np.float32)), (empty, empty)

    def loss(self, model, batch):
        features, targets = batch
        return 0.5 * ((features * model.weight - targets) ** 2).sum(dim=1).mean()

    @classmethod
    def gradient(cls, node, x):
        a, b = cls.CURVES[node]
        return a * (a * x - b)

    @classmethod
    def optimum(cls):
        """Of the mean of all nodes' losses."""
        return sum(a * b for a, b in cls.CURVES) / sum(a * a for a, b in cls.CURVES)


def config(job=None, **train):
    """Of a job with these settings of [train]: by default one step of one epoch, of all rows, without momentum."""
    table = {"epochs": 1, "batch": 8, "lr": 0.1, "momentum": 0.0, **train}
    return msgspec.convert({"name": "quadratic", "task": "none:Quadratic", "train": table, **(job or {})}, JobConfig)
