"""How a node's steps differ from plain gradient descent: one method a class, chosen by [train] of job.toml.

A method sees the gradient of the task's loss after it was clipped, so what it adds is not cut again.
"""

from __future__ import annotations

from typing import Protocol

import torch

from msrt.training.settings import TrainSettings

__all__ = ["FedAvg", "FedProx", "Method", "method_of"]


class Method(Protocol):
    """One round of one node. The model holds the weights it was given when `begin` is called."""

    def begin(self, model: torch.nn.Module) -> None: ...

    def adjust(self) -> None:
        """Between the gradients of a batch and the step."""


class FedAvg:
    """Descent as the optimiser does it (McMahan 2017)."""

    def begin(self, model: torch.nn.Module) -> None:
        pass

    def adjust(self) -> None:
        pass


class FedProx:
    """The gradient of mu / 2 * |w - w_round|^2 is added, so that no node goes far from where all began (Li 2020)."""

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._pairs: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def begin(self, model: torch.nn.Module) -> None:
        self._pairs = [(own, own.detach().clone()) for own in model.parameters() if own.requires_grad]

    def adjust(self) -> None:
        with torch.no_grad():
            for own, start in self._pairs:
                if own.grad is not None:
                    own.grad.add_(own, alpha=self._mu).sub_(start, alpha=self._mu)


def method_of(settings: TrainSettings) -> Method:
    """A new one for a round."""
    return FedProx(settings.proximal) if settings.proximal else FedAvg()
