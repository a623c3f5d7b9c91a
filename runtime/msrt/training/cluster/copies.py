"""DDP: every rank has a whole copy of the model, gradients are averaged while the backward pass goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from msrt.errors import InvalidJob
from msrt.training.settings import ClusterSettings

__all__ = ["Hook", "wrap"]

MIB: Final = 1 << 20
Waits: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass
class Hook:
    """PowerSGD's memory: of one round, so that a round depends on nothing but its weights."""

    rank: int
    state: object | None = None

    def reset(self) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power  # noqa: PLC0415 - where asked

        fresh = power.PowerSGDState(
            None, matrix_approximation_rank=self.rank, start_powerSGD_iter=2, warm_start=True, use_error_feedback=True
        )
        if self.state is None:
            self.state = fresh
        else:
            for name in fresh.__slots__:
                setattr(self.state, name, getattr(fresh, name))


def wrap(loss: torch.nn.Module, settings: ClusterSettings) -> tuple[DistributedDataParallel, Waits, Callable[[], None]]:
    """The loss on all ranks, the context in which gradients wait, and what makes its hook forget the round before.

    PowerSGD over gloo hangs with several buckets: it gets one. Raises InvalidJob for a hook that the backend lacks.
    """
    kind, _, rank = settings.hook.partition(":")
    if kind == "bf16" and dist.get_backend() != "nccl":
        raise InvalidJob("[cluster] hook = 'bf16' needs NCCL", hint="'fp16' works with gloo too")
    size = sum(value.numel() * value.element_size() for value in loss.parameters())
    cap = size // MIB + 1 if kind == "powersgd" and dist.get_backend() == "gloo" else None
    wrapped = DistributedDataParallel(loss, gradient_as_bucket_view=True, bucket_cap_mb=cap)
    if kind == "none":
        return wrapped, wrapped.no_sync, lambda: None
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook  # noqa: PLC0415 - where asked

    if kind == "powersgd":
        hook = Hook(int(rank))
        hook.reset()
        wrapped.register_comm_hook(hook.state, powerSGD_hook.powerSGD_hook)
        return wrapped, wrapped.no_sync, hook.reset
    wrapped.register_comm_hook(
        None, default_hooks.fp16_compress_hook if kind == "fp16" else default_hooks.bf16_compress_hook
    )
    return wrapped, wrapped.no_sync, lambda: None
