"""FSDP2: every tensor of the model is divided over ranks; a block is whole only while it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from msrt.training.cluster.blocks import blocks

__all__ = ["shard"]


def shard(
    model: torch.nn.Module, mesh: DeviceMesh, precision: torch.dtype | None
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Divide in place; returns the context in which gradients wait for the last micro-batch."""
    policy: dict[str, Any] = {}
    if precision is not None:
        # Gathered in half precision, summed in float32: ranks add more often than layers do.
        policy["mp_policy"] = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, **policy)
    if not isinstance(model, FSDPModule):
        fully_shard(model, mesh=mesh, **policy)
    root: Any = model

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)

    return waiting
