"""Handwritten digits (8x8, 1,797 of them) split unevenly by class: each node sees mostly three or four of the ten.

One fold in five is held out for judging; which fold an image is in depends on its index alone. So five jobs with
`fold = 0` to `4` judge every image by a model that never saw it.
"""

from __future__ import annotations

import numpy as np
import torch
from digits import CLASSES, digits, held_out, owners
from numpy.typing import NDArray

from msrt.training.task import Node, Task


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
        return held_out(length, fold, int(self.options.get("split", 0)))

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
