"""A task's data as batches: a tuple of tensors of equal length, or a torch Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from msrt.errors import InvalidJob
from msrt.learning.vector import Array
from msrt.training.task import Batch, Data

__all__ = ["batches", "joined", "length_of", "prepared", "take"]

GATHER: Final = 4 << 20
"""Bytes of shuffled rows that are gathered at once: for each small batch by itself it costs as much as the batch."""


def prepared(data: Data) -> Data:
    """Arrays become tensors; a Dataset stays."""
    if not isinstance(data, tuple | list):
        return data
    tensors = tuple(value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value)) for value in data)
    if len({len(value) for value in tensors}) > 1:
        raise InvalidJob(f"a task's data has parts of unequal length: {[len(value) for value in tensors]}")
    return tensors


def length_of(data: Data) -> int:
    """Samples."""
    if isinstance(data, tuple):
        return len(data[0]) if data else 0
    return len(data)


def take(data: Data, chosen: Array) -> Batch:
    """A batch of these samples."""
    if isinstance(data, tuple):
        rows = torch.from_numpy(chosen)
        return tuple(column[rows] for column in data)
    return tuple(torch.utils.data.default_collate([data[int(at)] for at in chosen]))


def joined(parts: Sequence[Data]) -> Data:
    """All of them as one."""
    if all(isinstance(part, tuple) for part in parts):
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
    return torch.utils.data.ConcatDataset(list(parts))


def batches(data: Data, batch: int, generator: torch.Generator | None) -> Iterator[Batch]:
    """Batches in an order drawn from the generator, or in their own."""
    if not isinstance(data, tuple):
        yield from torch.utils.data.DataLoader(data, batch, shuffle=generator is not None, generator=generator)
        return
    length = length_of(data)
    if generator is None:
        for start in range(0, length, batch):
            yield tuple(column[start : start + batch].clone() for column in data)
        return
    order = torch.randperm(length, generator=generator)
    row = sum(column[:1].nbytes for column in data)
    stretch = batch * max(1, GATHER // max(batch * row, 1))
    for first in range(0, length, stretch):
        chosen = order[first : first + stretch]
        columns = [column[chosen] for column in data]
        yield from zip(*(column.split(batch) for column in columns), strict=True)
