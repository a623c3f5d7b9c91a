"""What a user writes: one class. It is called in the runner's process only; importing this file imports no torch."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    import torch

    from msrt.training.descent import Optimiser
    from msrt.training.settings import TrainSettings

__all__ = ["Batch", "Data", "Node", "Task"]

Data: TypeAlias = Any
"""A tuple of arrays or tensors of equal length, features first, or a torch Dataset whose items are such tuples."""
Batch: TypeAlias = "tuple[torch.Tensor, ...]"


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which node the task runs for."""

    id: str
    labels: dict[str, str] = {}
    index: int = 0
    """Its place among all that could take part when the round opened, 0 .. count - 1."""
    count: int = 1
    data: str = ""
    """Directory of this node's data (MSRT_DATA), empty where there is none."""


class Task(abc.ABC):
    """A model and the data of one node. Everything but `model` and `data` has a default for classification.

    `options` is the table [options] of job.toml.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @abc.abstractmethod
    def model(self) -> torch.nn.Module:
        """A new model, initialised from torch's seeded generator; the cloud's copy is where everybody starts."""

    @abc.abstractmethod
    def data(self, node: Node) -> tuple[Data, Data]:
        """What this node trains on and what it is judged on. Called once a process and node, the result is kept."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch. Default: cross-entropy of (features, labels)."""
        from torch.nn.functional import cross_entropy  # noqa: PLC0415 - torch lives in the runner only

        features, labels = batch
        return cross_entropy(model(features), labels)

    def differentiate(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Leave the gradient of `loss` in `.grad` of the model's parameters, which have none yet, and return the loss.

        Default: by autograd. A task that knows its gradient as a formula may write it down: of a small model's step
        autograd is the larger part. It must be that of `loss`, which is differentiated itself where a node takes
        gradients of single samples, or of several batches together.
        """
        loss = self.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def optimiser(self, model: torch.nn.Module, settings: TrainSettings) -> Optimiser:
        """Made anew each round; any of torch.optim will do. Default: SGD with the job's lr, momentum, weight_decay."""
        from msrt.training.descent import Descent  # noqa: PLC0415 - torch lives in the runner only

        return Descent(model.parameters(), settings.lr, settings.momentum, settings.weight_decay)

    def parallel_plan(self, model: torch.nn.Module) -> dict[str, str] | None:
        """[cluster] strategy "tensor": which linear layers are divided, "column" by outputs, "row" by inputs, by name.

        None: pairs that only an activation separates are found.
        """
        del model
        return None

    def evaluate(self, model: torch.nn.Module, batches: Iterator[Batch]) -> dict[str, float]:
        """Means over the test data by name. Default: loss and accuracy."""
        losses, right, seen = 0.0, 0, 0
        for batch in batches:
            labels = batch[-1]
            losses += float(self.loss(model, batch)) * len(labels)
            right += int((model(batch[0]).argmax(dim=-1) == labels).sum())
            seen += len(labels)
        return {"loss": losses / seen, "accuracy": right / seen} if seen else {}

    def example(self) -> tuple[torch.Tensor, ...] | None:
        """Inputs of batch size 2 for the export; None takes them from the data of node 0."""
        return None

    def reference(self) -> tuple[Data, Data] | None:
        """Data the cloud may hold: what to calibrate on, and (features, labels) to judge the exported model on."""
        return None
