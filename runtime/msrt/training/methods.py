"""How a node's steps differ from plain gradient descent: one method a class, chosen by [train] of job.toml.

A method sees the gradient of the task's loss after it was clipped, so what it adds is not cut again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.vector import Layout, Vector
from msrt.training.descent import Descent, Optimiser
from msrt.training.settings import TrainSettings

__all__ = ["FedAvg", "FedProx", "Method", "Scaffold", "method_of"]


class Method(Protocol):
    """One round of one node. The model holds the weights it was given when `begin` is called."""

    def begin(self, model: torch.nn.Module, optimiser: Optimiser) -> None: ...

    def adjust(self) -> None:
        """Between the gradients of a batch and the step."""


class FedAvg:
    """Descent as the optimiser does it (McMahan 2017)."""

    def begin(self, model: torch.nn.Module, optimiser: Optimiser) -> None:
        pass

    def adjust(self) -> None:
        pass


class FedProx:
    """The gradient of mu / 2 * |w - w_round|^2 is added, so that no node goes far from where all began (Li 2020)."""

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._pairs: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def begin(self, model: torch.nn.Module, optimiser: Optimiser) -> None:  # noqa: ARG002 - any will do
        self._pairs = [(own, own.detach().clone()) for own in model.parameters() if own.requires_grad]

    def adjust(self) -> None:
        with torch.no_grad():
            for own, start in self._pairs:
                if own.grad is not None:
                    own.grad.add_(own, alpha=self._mu).sub_(start, alpha=self._mu)


class Scaffold:
    """Each gradient is corrected by what this node's usually are, against everybody's (Karimireddy 2020, option II).

    `own` and `server` are the control variates, flat in the layout `controlled`.
    """

    def __init__(self, controlled: Layout, server: Vector, own: Vector) -> None:
        self._layout, self._server, self.own = controlled, server, own
        self._pairs: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._lr = 0.0

    def begin(self, model: torch.nn.Module, optimiser: Optimiser) -> None:
        """Raises InvalidJob for another optimiser than plain descent: a step must be lr times a gradient."""
        if not isinstance(optimiser, Descent) or optimiser.momentum:
            raise InvalidJob(
                "scaffold takes the mean gradient from the way that a node went: its optimiser must be plain descent",
                hint="[train] momentum = 0, and no optimiser of the task's own",
            )
        self._lr = optimiser.lr
        named = dict(model.named_parameters())
        tensors = self._layout.unflatten(self._server - self.own)
        self._pairs = [(named[name], torch.from_numpy(value)) for name, value in tensors.items()]

    def adjust(self) -> None:
        with torch.no_grad():
            for own, correction in self._pairs:
                if own.grad is not None:
                    own.grad.add_(correction)

    def finish(self, way: Vector, steps: int) -> Vector:
        """This node's control after it went this way in so many steps: the mean of its gradients."""
        fresh: Vector = self.own - self._server - way / np.float32(steps * self._lr)
        return fresh


def method_of(settings: TrainSettings) -> Method:
    """A new one for a round, of those that a node needs to remember nothing for."""
    return FedProx(settings.proximal) if settings.proximal else FedAvg()
