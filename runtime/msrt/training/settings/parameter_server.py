"""A parameter server instead of rounds of everybody."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from msrt.training.settings.base import Count, NotNegative, Positive, Seconds, Table

__all__ = ["ParameterServer"]


class ParameterServer(Table, frozen=True):
    """[parameter_server]: workers push and pull at their own pace; edges serve the model in shards.

    `rounds` of the job are then intervals between checkpoints. [server] says how a push moves the model; its lr, where
    it is left out, is that of [train] for gradients.
    """

    mode: Literal["sync", "ssp", "async"] = "sync"
    """Everybody's push makes one step; each moves the model alone, and nobody is more than `staleness` clocks ahead of
    the slowest; each at its own pace."""
    staleness: Count = 4
    """Of ssp."""
    steps: Count = 0
    """Pushes of each worker in a round; or ..."""
    epochs: NotNegative = 0.0
    """... times through all workers' data in a round; one of the two is given."""
    push: Literal["gradient", "delta"] = "gradient"
    """The mean gradient of `push_every` batches, or how far as many steps of the task's own optimiser went."""
    push_every: Positive = 1
    """Batches between two pushes."""
    shards: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Ranges that the model is cut into; 0: one for each edge that is there when the job begins."""
    prefetch: bool = True
    """Of ssp and async: compute the next push while the last one and its answer are on their way, on weights that are
    one push older."""
    discount: NotNegative = 0.0
    """Of ssp and async: a push computed t clocks ago moves the model by (1 + t) ** -discount of its share."""
    lease_s: Seconds = 3.0
    """A worker that is silent for so long holds nobody any more."""
    snapshot_s: Seconds = 5.0
    """A server writes its shards to its own disk so often."""

    def __post_init__(self) -> None:
        if bool(self.steps) is (self.epochs > 0):
            raise ValueError("[parameter_server] takes `steps` or `epochs` of a round, one of the two")

    @property
    def ahead(self) -> int:
        """Pushes on their way while the next one is computed."""
        waits = self.mode == "sync" or (self.mode == "ssp" and not self.staleness)
        return int(self.prefetch and not waits)
