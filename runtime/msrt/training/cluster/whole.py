"""Tensors that may be divided over ranks (DTensor), and their whole.

A DTensor is known by its methods: importing the class costs a second that DDP has no need of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from msrt.learning.vector import Layout, Vector
from msrt.training.descent import Descent, Optimiser

__all__ = ["clip", "fill", "gathered", "optimiser_state", "restore_optimiser"]


def _divided(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Copy what is this rank's of the values."""
    if _divided(tensor):
        from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - it is here already

        kept: Any = tensor
        parts = distribute_tensor(values.to(kept.device), kept.device_mesh, kept.placements, src_data_rank=None)
        kept.to_local().copy_(parts.to_local())
    else:
        tensor.copy_(values)


def gathered(layout: Layout, state: Mapping[str, torch.Tensor]) -> Vector | None:
    """The whole model on rank 0. Collective."""
    first = dist.get_rank() == 0
    flat = np.empty(layout.size if first else 0, np.float32)
    at = 0
    for slot in layout.slots:
        tensor: Any = state[slot.name]
        whole = tensor.full_tensor() if _divided(tensor) else tensor
        if first:
            flat[at : at + slot.size] = whole.detach().float().cpu().numpy().reshape(-1)
            at += slot.size
    return flat if first else None


def clip(gradients: Iterable[torch.Tensor | None], most: float, *, apart: bool = False) -> None:
    """Scale them to a norm of at most so much over all ranks, as torch.nn.utils.clip_grad_norm_ does. Collective.

    apart: each rank has others.
    """
    found = [gradient for gradient in gradients if gradient is not None]
    square = torch.zeros(())
    for gradient in found:
        norm: Any = torch.linalg.vector_norm(gradient)
        square = square + (norm.full_tensor() if _divided(norm) else norm).cpu() ** 2
    if apart:
        square = square.to(found[0].device)
        dist.all_reduce(square)
    scale = float(torch.clamp(most / (square.sqrt() + 1e-6), max=1.0))
    for gradient in found:
        gradient.mul_(scale)


def optimiser_state(model: torch.nn.Module, optimiser: Optimiser) -> dict[str, Any]:
    """Tensors by name, to be saved or loaded in place; empty for an optimiser of the user's own."""
    if isinstance(optimiser, Descent):
        if not optimiser.momentum:
            return {}
        own = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for value in own.values():
            optimiser.velocity.setdefault(value, torch.zeros_like(value, requires_grad=False))
        return {name: optimiser.velocity[value] for name, value in own.items()}
    if isinstance(optimiser, torch.optim.Optimizer):
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict  # noqa: PLC0415 - a second

        return get_optimizer_state_dict(model, optimiser)
    return {}


def restore_optimiser(model: torch.nn.Module, optimiser: Optimiser, state: dict[str, Any]) -> None:
    """What loading in place could not reach."""
    if isinstance(optimiser, torch.optim.Optimizer):
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict  # noqa: PLC0415

        set_optimizer_state_dict(model, optimiser, state)
