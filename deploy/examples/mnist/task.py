"""MNIST as in "Communication-Efficient Learning of Deep Networks from Decentralized Data" (McMahan 2017): its 2NN."""

from __future__ import annotations

import numpy as np
import torch
from images import CLASSES, mnist, share
from numpy.typing import NDArray

from msrt.training.task import Node, Task

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


class Mnist(Task):
    """A perceptron of 784-200-200-10: 199,210 parameters."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(784, 200),
            torch.nn.ReLU(),
            torch.nn.Linear(200, 200),
            torch.nn.ReLU(),
            torch.nn.Linear(200, CLASSES),
        )

    def data(self, node: Node) -> tuple[Part, Part]:
        return self._part(node, "train"), self._part(node, "test")

    def _part(self, node: Node, part: str) -> Part:
        images, labels = mnist(node.data, part)
        if part == "train":
            labels = labels[: int(self.options.get("images", 0)) or None]
        split, seed = str(self.options.get("split", "iid")), int(self.options.get("seed", 0))
        mine = share(labels, node.index, node.count, split, seed)
        return images[mine].astype(np.float32) / 255, labels[mine]

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, 784),)
