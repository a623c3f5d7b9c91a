"""The node that is a cluster."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from msrt.training.settings.base import Count, Positive, Table

__all__ = ["ClusterSettings"]

HOOK: Final = r"^(none|fp16|bf16|powersgd:[1-9]\d?)$"
HOOKS: Final = "none, fp16, bf16 or powersgd:RANK (as powersgd:2)"


class ClusterSettings(Table, frozen=True):
    """[cluster]: a node trains its round with a group of processes on torch.distributed that torchrun's agent keeps."""

    processes: Count = 0
    """0: one for each GPU, without GPUs one for each core."""
    nodes: Positive = 1
    """So many nodes of one edge are one group: each runs `processes` of it and loads the data of all. They send the
    same update, each for its own samples."""
    shared: str = ""
    """With several nodes: a directory that all of them see, for checkpoints within a round; without one a group that
    was restarted begins the round again."""
    strategy: Literal["ddp", "fsdp", "tensor", "pipeline"] = "ddp"
    """Each process has a copy of the model (DDP), a part of every tensor (FSDP2), a part of the layers that divide
    (tensor parallel), or a run of layers (pipeline)."""
    tensor: Count = 0
    """tensor: so many processes share a layer, and the groups of them are fully sharded; 0: all."""
    schedule: Literal["1f1b", "gpipe"] = "1f1b"
    """pipeline: in which order micro-batches go forward and back."""
    hook: Annotated[str, msgspec.Meta(pattern=HOOK, description=HOOKS)] = "none"
    """ddp: how gradients travel between the processes. powersgd:RANK is biased, its error feedback lasts a round."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass; fp16 scales the loss. Weights and optimiser stay fp32."""
    accumulate: Positive = 1
    """A step's batch is computed in so many parts (pipeline: micro-batches), its gradients travel once."""
    checkpoint_activations: bool = False
    """Keep a block's inputs only and compute it again on the way back: less memory, a third more work."""
    batch: Literal["", "auto"] = ""
    """auto: the largest batch that a process's memory holds, found by trying, instead of [train] batch."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    checkpoint_steps: Count = 100
    """Steps between checkpoints within a round, from which restarted workers go on; 0: they begin the round again."""
    restarts: Count = 3
    """So often are workers that died started again before the job fails on this node."""

    @property
    def saves_every(self) -> int:
        """Steps between checkpoints; 0: there are none."""
        return self.checkpoint_steps if self.nodes == 1 or self.shared else 0

    def __post_init__(self) -> None:
        ddp = self.strategy == "ddp"
        for said, fault in (
            (self.hook != "none" and not ddp, f"hook = {self.hook!r} is of strategy 'ddp', not {self.strategy!r}"),
            (self.batch == "auto" and not ddp, f"batch = 'auto' is of strategy 'ddp', not {self.strategy!r}"),
            (self.batch == "auto" and self.nodes > 1, "batch = 'auto' is tried on one node, not on several"),
            (
                self.shared and self.nodes == 1,
                "shared is for several nodes: one has its own directory",
            ),
            (
                self.precision == "fp16" and not ddp,
                f"precision 'fp16' scales the loss under 'ddp' only: {self.strategy!r} has 'bf16'",
            ),
            (
                self.tensor and self.strategy != "tensor",
                f"tensor = {self.tensor} is of strategy 'tensor', not {self.strategy!r}",
            ),
            (
                self.tensor and self.processes % self.tensor,
                f"{self.processes} processes are no multiple of tensor = {self.tensor}",
            ),
            (
                self.strategy == "pipeline" and self.checkpoint_activations,
                "a pipeline keeps few activations: no checkpoint_activations",
            ),
        ):
            if said:
                raise ValueError(f"[cluster] {fault}")
