"""Tensor parallel: the two layers of a feed-forward block are divided, one by its outputs, the next by its inputs.

The plan is the task's, or found by names and order (`shares.column_row_pairs`). Whichever it is, the divided model must
give the loss of the whole one before it trains: a plan that divides what mixes features would be wrong without a word.
"""

from __future__ import annotations

from typing import Final

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from msrt.errors import InvalidJob
from msrt.training.cluster.shares import column_row_pairs
from msrt.training.task import Batch, Task

__all__ = ["divide"]

ELEMENTWISE: Final = (
    torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU, torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.ELU, torch.nn.LeakyReLU,
    torch.nn.Softplus, torch.nn.Identity,
)  # fmt: skip
NEAR: Final = 1e-3
HINT: Final = "Task.parallel_plan(model) names them: {'block.up': 'column', 'block.down': 'row'}"


def divide(task: Task, model: torch.nn.Module, mesh: DeviceMesh, batch: Batch) -> None:
    """Divide the model's layers in place. Raises InvalidJob where there are none, or the loss of the batch changes."""
    plan = task.parallel_plan(model)
    if plan is None:
        plan = _found(model, mesh.size())
    if not plan:
        raise InvalidJob(f"no pair of linear layers divides by {mesh.size()}", hint=HINT)
    expected = _loss(task, model, batch)
    try:
        parallelize_module(model, mesh, {name: _style(name, how) for name, how in plan.items()})
        got = _loss(task, model, batch)
    except (RuntimeError, ValueError) as error:
        raise InvalidJob(f"the model cannot be divided by {plan}: {error}"[:600], hint=HINT) from error
    if not abs(got - expected) <= NEAR * max(1.0, abs(expected)):
        raise InvalidJob(f"divided by {plan} the model's loss is {got:.4g} instead of {expected:.4g}", hint=HINT)


def _found(model: torch.nn.Module, world: int) -> dict[str, str]:
    modules = dict(model.named_modules())
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear)
    }
    sequences = [
        [(f"{name}.{last}".lstrip("."), isinstance(child, ELEMENTWISE)) for last, child in module.named_children()]
        for name, module in modules.items()
        if isinstance(module, torch.nn.Sequential)
    ]
    return column_row_pairs(linears, sequences, world)


def _style(name: str, how: str) -> ParallelStyle:
    if how == "column":
        return ColwiseParallel()
    if how == "row":
        return RowwiseParallel()
    raise InvalidJob(
        f"parallel_plan divides {name!r} by {how!r}", hint="'column' divides its outputs, 'row' its inputs"
    )


def _loss(task: Task, model: torch.nn.Module, batch: Batch) -> float:
    model.eval()
    with torch.no_grad():
        return float(task.loss(model, batch))
