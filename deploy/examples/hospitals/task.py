"""Hospitals that may not show each other a patient learn one model of which tumours are benign."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sites import FEATURES, held_out, site_of, tumours

from msrt.training.task import Node, Task

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


class Hospitals(Task):
    """A perceptron of 30-16-2: 530 parameters."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(FEATURES, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))

    def _held_out(self, length: int) -> NDArray[np.bool_]:
        return held_out(length, int(self.options.get("fold", 0)), int(self.options.get("seed", 0)))

    def data(self, node: Node) -> tuple[Part, Part]:
        values, labels = tumours()
        mine = site_of(labels, node.count, int(self.options.get("seed", 0))) == node.index
        test = self._held_out(len(labels))
        return (values[mine & ~test], labels[mine & ~test]), (values[mine & test], labels[mine & test])

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, FEATURES),)

    def reference(self) -> tuple[Part, Part]:
        values, labels = tumours()
        test = self._held_out(len(labels))
        return (values[~test][:200], labels[~test][:200]), (values[test], labels[test])
