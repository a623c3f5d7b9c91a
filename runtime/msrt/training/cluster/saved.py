"""Checkpoints within a round, by torch.distributed.checkpoint: each rank writes its part, any number of them loads it.

A directory a checkpoint; it is whole once its `.metadata` is there, which is renamed into place last.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist

__all__ = ["Checkpoints", "Savable"]

WHOLE: Final = ".metadata"


class Savable(Protocol):
    """What has a state of tensors by name, nested, some of them perhaps DTensors."""

    def state(self) -> dict[str, Any]:
        """Collective. Loading fills its tensors in place."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what in-place loading could not reach."""


class Checkpoints:
    """Those of one round: `name` says of which; others are in the way. All methods are collective."""

    def __init__(self, directory: Path, name: str) -> None:
        self._all, self._mine = directory, directory / name

    def resume(self, what: Savable) -> int:
        """Load the newest whole checkpoint of the round; returns its step, 0 where there is none."""
        found = [0]
        if dist.get_rank() == 0:
            for other in self._all.glob("*"):
                if other != self._mine:
                    shutil.rmtree(other, ignore_errors=True)
            found[0] = max((int(path.parent.name) for path in self._mine.glob(f"*/{WHOLE}")), default=0)
        dist.broadcast_object_list(found)
        if found[0]:
            load(what, self._mine / str(found[0]))
        return found[0]

    def save(self, what: Savable, step: int) -> None:
        """Write one; once it is whole, the one before may go."""
        save(what, self._mine / str(step))
        if dist.get_rank() == 0:
            for other in self._mine.glob("*"):
                if other.name != str(step):
                    shutil.rmtree(other, ignore_errors=True)

    def forget(self) -> None:
        """The round is done."""
        if dist.get_rank() == 0:
            shutil.rmtree(self._mine, ignore_errors=True)


def save(what: Savable, path: Path) -> None:
    """Collective."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415 - a second to import

    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    dist.barrier()
    dcp.save(what.state(), checkpoint_id=path)


def load(what: Savable, path: Path) -> None:
    """Collective, under any number of ranks; what the checkpoint lacks stays as it is."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415

    state = what.state()
    with torch.no_grad():
        dcp.load(state, checkpoint_id=path, planner=dcp.DefaultLoadPlanner(allow_partial_load=True))
    what.restore(state)
