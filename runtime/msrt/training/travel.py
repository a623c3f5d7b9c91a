"""Which part of a model travels, what stays on its node, and what travels beside it.

A travelling vector is the shared tensors in the model's order and then, for methods with control variates, a slot
`control/NAME` for each tensor that is trained. Masters need to know no more: see `msrt.learning.control`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np

from msrt.errors import InvalidJob
from msrt.learning.control import CONTROL
from msrt.learning.vector import Layout, Slot, Vector

__all__ = ["Travel"]

Runs = list[slice]


class Travel:
    """`keep`: patterns of tensors that stay; `trained`: names of the parameters, for a control each, or nothing.

    Raises InvalidJob for a pattern that names nothing, or where nothing is left to travel.
    """

    def __init__(self, model: Layout, keep: Sequence[str] = (), trained: Collection[str] = ()) -> None:
        names = [slot.name for slot in model.slots]
        for pattern in keep:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InvalidJob(f"keep_local {pattern!r} names no tensor of the model", hint=f"it has {names[:20]}")
        stays = {name for name in names if any(fnmatchcase(name, pattern) for pattern in keep)}
        if len(stays) == len(names):
            raise InvalidJob("keep_local keeps every tensor of the model: nothing is left to learn together")
        self.model = model
        self._shared = _runs(model, [slot for slot in model.slots if slot.name not in stays])
        self._kept = _runs(model, [slot for slot in model.slots if slot.name in stays])
        control = [slot for slot in model.slots if slot.name in trained and slot.name not in stays]
        self._trained = _runs(model, control)
        self.controlled = Layout(tuple(control))
        """The tensors that have a control."""
        self.shared = Layout(tuple(slot for slot in model.slots if slot.name not in stays))
        beside = tuple(Slot(CONTROL + slot.name, slot.shape, "float32") for slot in control)
        self.layout = Layout(self.shared.slots + beside)
        """Of what travels."""
        self.keeps = bool(stays)

    def whole(self, vector: Vector, kept: Vector) -> Vector:
        """The model's vector of one that came, with the tensors that stayed. No copy where none do."""
        shared = vector[: self.shared.size]
        if not self.keeps:
            return shared
        flat = np.empty(self.model.size, np.float32)
        _spread(shared, self._shared, flat)
        _spread(kept, self._kept, flat)
        return flat

    def kept(self, flat: Vector) -> Vector:
        """The tensors of a model's vector that stay, a copy."""
        return _picked(flat, self._kept)

    def sent(self, flat: Vector) -> Vector:
        """The tensors of a model's vector that travel; no copy where all do."""
        return _picked(flat, self._shared) if self.keeps else flat

    def trained(self, flat: Vector) -> Vector:
        """The tensors of a model's vector that have a control, a copy."""
        return _picked(flat, self._trained)

    def control(self, vector: Vector) -> Vector:
        """The controls of a vector that came."""
        return vector[self.shared.size :]


def _runs(model: Layout, slots: Iterable[Slot]) -> Runs:
    """Where these lie in the model's vector, neighbours joined."""
    wanted, runs, at = {slot.name for slot in slots}, Runs(), 0
    for slot in model.slots:
        if slot.name in wanted:
            start = runs.pop().start if runs and runs[-1].stop == at else at
            runs.append(slice(start, at + slot.size))
        at += slot.size
    return runs


def _picked(flat: Vector, runs: Runs) -> Vector:
    return np.concatenate([flat[run] for run in runs]) if runs else np.empty(0, np.float32)


def _spread(part: Vector, runs: Runs, flat: Vector) -> None:
    at = 0
    for run in runs:
        flat[run] = part[at : at + run.stop - run.start]
        at += run.stop - run.start
