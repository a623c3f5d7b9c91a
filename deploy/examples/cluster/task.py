"""Handwritten digits shared out to servers, each of which trains by a group of processes."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msrt.training.settings import TrainSettings
from msrt.training.task import Node, Task

WIDTH, BLOCKS = 64, 4
Part = tuple[NDArray[np.float32], NDArray[np.int64]]


@cache
def digits() -> Part:
    """1,797 images of 64 pixels, 0 to 1, in an order of their own, and what they show. The file of scikit-learn."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn: pip install 'msrt[train]'")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    table = np.random.default_rng(0).permutation(table)
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64)


class Block(torch.nn.Module):
    """A perceptron with its norm before and its shortcut around. `up` and `down` can be divided over processes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = values + self.down(torch.nn.functional.gelu(self.up(self.norm(values))))
        return found


class Net(torch.nn.Module):
    """From pixels [n, 64] to scores [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.scores = torch.nn.Linear(WIDTH, 10)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            values = block(values)
        found: torch.Tensor = self.scores(values)
        return found


class Servers(Task):
    """133,514 parameters; one image in five judges."""

    def model(self) -> torch.nn.Module:
        return Net()

    def data(self, node: Node) -> tuple[Part, Part]:
        pixels, labels = (column[node.index :: node.count] for column in digits())
        judge = np.arange(len(labels)) % 5 == 0
        return (pixels[~judge], labels[~judge]), (pixels[judge], labels[judge])

    def optimiser(self, model: torch.nn.Module, settings: TrainSettings) -> Any:
        return torch.optim.AdamW(model.parameters(), lr=settings.lr)
