"""The samples of a step, wherever they come from: tensors that are indexed, or a Dataset whose items are collated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.training.task import Batch, Data

__all__ = ["Samples"]


class Samples:
    """A node's training data. Every rank holds all of it and takes its share of each step."""

    def __init__(self, data: Data) -> None:
        self._columns: tuple[torch.Tensor, ...] | None = None
        self._items: Any = data
        if isinstance(data, tuple | list):
            self._columns = tuple(
                column if isinstance(column, torch.Tensor) else torch.from_numpy(np.asarray(column)) for column in data
            )
            if len({len(column) for column in self._columns}) > 1:
                raise InvalidJob(f"a task's data has parts of lengths {[len(column) for column in self._columns]}")

    def __len__(self) -> int:
        if self._columns is None:
            return len(self._items)
        return len(self._columns[0]) if self._columns else 0

    def take(self, chosen: torch.Tensor, device: torch.device) -> Batch:
        """These samples as a batch on the device."""
        if self._columns is not None:
            columns = tuple(column[chosen] for column in self._columns)
        else:
            columns = torch.utils.data.default_collate([self._items[int(at)] for at in chosen])
        return tuple(column.to(device, non_blocking=True) for column in columns)
