"""The node that is a cluster."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from msrt.training.settings.base import Count, Positive, Table

__all__ = ["ClusterSettings"]

HOOK: Final = r"^(none|fp16|bf16|powersgd:[1-9]\d?)$"


class ClusterSettings(Table, frozen=True):
    """[cluster]: a node trains its round with a group of processes on torch.distributed that torchrun's agent keeps."""

    processes: Count = 0
    """0: one for each GPU, without GPUs one for each core."""
    hook: Annotated[str, msgspec.Meta(pattern=HOOK)] = "none"
    """How gradients travel between the processes. powersgd:RANK is biased, its error feedback lasts a round."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass; fp16 scales the loss. Weights and optimiser stay fp32."""
    accumulate: Positive = 1
    """A step's batch is computed in so many parts, its gradients travel once."""
    checkpoint_activations: bool = False
    """Keep a block's inputs only and compute it again on the way back: less memory, a third more work."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    checkpoint_steps: Count = 100
    """Steps between checkpoints within a round, from which restarted workers go on; 0: they begin the round again."""
    restarts: Count = 3
    """So often are workers that died started again before the job fails on this node."""
