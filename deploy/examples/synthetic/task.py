"""Devices whose data and whose truth differ from one another: the test bed of FedProx (Li 2020)."""

from __future__ import annotations

import torch
from devices import CLASSES, FEATURES, TRAINED, Samples, devices

from msrt.training.task import Batch, Node, Task


class Synthetic(Task):
    """Multinomial logistic regression: 610 parameters."""

    _one_hot = torch.eye(CLASSES)

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(FEATURES, CLASSES)

    def data(self, node: Node) -> tuple[Samples, Samples]:
        alpha, beta = (float(self.options.get(name, 1.0)) for name in ("alpha", "beta"))
        values, labels = devices(alpha, beta, node.count, int(self.options.get("seed", 0)))[node.index]
        cut = int(TRAINED * len(labels))
        return (values[:cut], labels[:cut]), (values[cut:], labels[cut:])

    def differentiate(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """By its formula, in the mean over the samples: (softmax - one-hot) times the features."""
        assert isinstance(model, torch.nn.Linear)
        features, labels = batch
        with torch.no_grad():
            logs = torch.log_softmax(model(features), dim=1)
            loss = torch.nn.functional.nll_loss(logs, labels)
            share = 1.0 / len(labels)
            errors = logs.exp_().mul_(share).sub_(self._one_hot[labels], alpha=share)
            model.weight.grad, model.bias.grad = errors.t().mm(features), errors.sum(0)
        return loss

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, FEATURES),)
