"""A model's blocks: what is sharded together, and whose activations are computed again instead of kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Final

import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from msrt.errors import InvalidJob

__all__ = ["blocks", "recompute"]

SHORT: Final = 4
"""Layers of a run that is not worth a checkpoint."""


def blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The members with parameters of its outermost lists and sequences."""
    for child in module.children():
        listed = isinstance(module, torch.nn.ModuleList | torch.nn.Sequential)
        if listed and not isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from blocks(child)


def recompute(model: torch.nn.Module) -> None:
    """Keep the inputs of blocks only, and of a plain sequence of layers those of about the root of its length.

    Raises InvalidJob for a model that has neither. Forward methods are replaced in place: names and hooks stay.
    """
    found = 0
    for run in [module for module in model.modules() if isinstance(module, torch.nn.Sequential)]:
        layers = list(run.children())
        if len(layers) > SHORT and all(not list(layer.children()) for layer in layers):
            run.forward = partial(_sequence, layers, round(math.sqrt(len(layers))))  # type: ignore[method-assign]
            found += 1
    for block in blocks(model):
        if list(block.children()):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            found += 1
    if not found:
        raise InvalidJob(
            "checkpoint_activations finds no blocks in the model", hint="put them into a ModuleList or a Sequential"
        )


def _sequence(layers: list[torch.nn.Module], segments: int, value: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = checkpoint_sequential(layers, segments, value, use_reentrant=False)  # type: ignore[no-untyped-call]
    return found
