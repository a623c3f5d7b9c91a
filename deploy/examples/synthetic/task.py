"""Devices whose data and whose truth differ from one another: the test bed of FedProx (Li 2020)."""

from __future__ import annotations

import torch
from devices import CLASSES, FEATURES, TRAINED, Samples, devices

from msrt.training.task import Node, Task


class Synthetic(Task):
    """Multinomial logistic regression: 610 parameters."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(FEATURES, CLASSES)

    def data(self, node: Node) -> tuple[Samples, Samples]:
        alpha, beta = (float(self.options.get(name, 1.0)) for name in ("alpha", "beta"))
        values, labels = devices(alpha, beta, node.count, int(self.options.get("seed", 0)))[node.index]
        cut = int(TRAINED * len(labels))
        return (values[:cut], labels[:cut]), (values[cut:], labels[cut:])

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, FEATURES),)
