"""Gradient descent with momentum, the default optimiser. Equal to torch.optim.SGD step by step.

Why our own: making any torch.optim optimiser imports torch._dynamo, a CPU second and 800 modules in every runner.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

__all__ = ["Descent", "Optimiser"]


class Optimiser(Protocol):
    """What local training asks of an optimiser; those of torch.optim do."""

    def zero_grad(self) -> None: ...

    def step(self) -> object: ...


class Descent:
    """v = momentum * v + gradient + weight_decay * w; w -= lr * v."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.velocity: dict[torch.nn.Parameter, torch.Tensor] = {}
        self.param_groups = [{"params": self.parameters}]
        """As torch.optim has them: torch.amp.GradScaler looks there."""

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        with torch.no_grad():
            for parameter in self.parameters:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad
                if self.weight_decay:
                    gradient = gradient.add(parameter, alpha=self.weight_decay)
                if self.momentum:
                    velocity = self.velocity.get(parameter)
                    if velocity is None:
                        velocity = self.velocity[parameter] = gradient.clone()
                    else:
                        velocity.mul_(self.momentum).add_(gradient)
                    gradient = velocity
                parameter.add_(gradient, alpha=-self.lr)
