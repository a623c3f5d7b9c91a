"""Handwritten digits (8x8, 1,797 of them) split unevenly by class: each node sees mostly three or four of the ten.

One fold in five is held out for judging; which fold an image is in depends on its index alone. So five jobs with
`fold = 0` to `4` judge every image by a model that never saw it.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from msrt.training.task import Node, Task

CLASSES = 10
FOLDS = 5


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pixels in 0..1 and labels, from the file that scikit-learn ships (importing scikit-learn costs a CPU second)."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the digits come with scikit-learn: pip install 'msrt[train]'")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64)


def owners(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The node of each image: of a class, nine tenths go to the nodes that favour it, the rest to anybody.

    Favoured classes of node i are the ten classes cut into `count` overlapping runs of three or four.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(CLASSES)
    width = max(3, -(-CLASSES // count))
    favoured = [{int(order[(i * CLASSES // count + j) % CLASSES]) for j in range(width)} for i in range(count)]
    owner = np.empty(len(labels), np.int64)
    for at, label in enumerate(labels):
        fans = [i for i in range(count) if int(label) in favoured[i]]
        anybody = not fans or rng.random() < 0.04
        owner[at] = rng.integers(count) if anybody else fans[rng.integers(len(fans))]
    return owner


class Digits(Task):
    """A perceptron of 64-192-64-10: 25,482 parameters."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(64, 192),
            torch.nn.ReLU(),
            torch.nn.Linear(192, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, CLASSES),
        )

    def _held_out(self, length: int) -> NDArray[np.bool_]:
        fold = int(self.options.get("fold", 0))
        return np.random.default_rng(int(self.options.get("split", 0))).permutation(length) % FOLDS == fold

    def data(
        self, node: Node
    ) -> tuple[tuple[NDArray[np.float32], NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.int64]]]:
        pixels, labels = digits()
        mine = owners(labels, node.count, int(self.options.get("split", 0))) == node.index
        test = self._held_out(len(labels))
        return (pixels[mine & ~test], labels[mine & ~test]), (pixels[mine & test], labels[mine & test])

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, 64),)

    def reference(
        self,
    ) -> tuple[tuple[NDArray[np.float32], NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.int64]]]:
        pixels, labels = digits()
        test = self._held_out(len(labels))
        return (pixels[~test][:200], labels[~test][:200]), (pixels[test], labels[test])
