"""A model whose graph hands state from call to call, seen without it: who asks neither brings the state nor gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from msrt.errors import InvalidModel, InvalidTensor
from msrt.inference.bundle import StateTensor
from msrt.inference.model import Model
from msrt.inference.tensors import COMPUTE_NAMES

__all__ = ["State", "StatefulModel"]

Array = NDArray[Any]
State = tuple[Array, ...]
"""One array for each `StateTensor`, in their order."""


class StatefulModel:
    """Like the model within, less its state. `run` begins with zeros; `step` goes on from what the last one gave."""

    def __init__(self, model: Model, pairs: tuple[StateTensor, ...]) -> None:
        """Raises InvalidModel where the graph lacks one of the pairs."""
        before, after = [pair.input for pair in pairs], [pair.output for pair in pairs]
        has_in, has_out = {spec.name for spec in model.inputs}, {spec.name for spec in model.outputs}
        for name, there in (*((name, has_in) for name in before), *((name, has_out) for name in after)):
            if name not in there:
                raise InvalidModel(f"the model has no tensor {name!r} to keep as state", hint=", ".join(sorted(there)))
        self.pairs: Final = pairs
        self.inputs: Final = tuple(spec for spec in model.inputs if spec.name not in before)
        self.outputs: Final = tuple(spec for spec in model.outputs if spec.name not in after)
        self.symbols: Final = {name: dims for name, dims in model.symbols.items() if name not in before}
        self.output_names: Final = [spec.name for spec in self.outputs]
        if not self.inputs or not self.outputs:
            raise InvalidModel("nothing but state goes in or comes out", hint="msrt model push --keeps none")
        self._model, self._before, self._after = model, before, after

    def run(self, inputs: dict[str, Array], names: Sequence[str] = ()) -> list[Array]:
        """As if a sequence of one step: from zeros, and what it leaves is forgotten."""
        return self.step(inputs, names)[0]

    def step(
        self, inputs: dict[str, Array], names: Sequence[str] = (), state: State | None = None
    ) -> tuple[list[Array], State]:
        """The outputs and the state after them; None begins with zeros. `state` itself is left as it was.

        Raises InvalidTensor, also for other rows than the sequence began with, and ModelFailed.
        """
        rows = _rows(inputs)
        if state is None:
            state = self._zeros(rows)
        else:
            self._check_rows(state, rows)
        wanted = list(names or self.output_names)
        found = self._model.run({**inputs, **dict(zip(self._before, state, strict=True))}, wanted + self._after)
        return found[: len(wanted)], tuple(found[len(wanted) :])

    def _zeros(self, rows: int) -> State:
        return tuple(
            np.zeros([rows if size < 0 else size for size in pair.shape], COMPUTE_NAMES[pair.dtype])
            for pair in self.pairs
        )

    def _check_rows(self, state: State, rows: int) -> None:
        for pair, array in zip(self.pairs, state, strict=True):
            if -1 in pair.shape and array.shape[pair.shape.index(-1)] != rows:
                began = array.shape[pair.shape.index(-1)]
                raise InvalidTensor(f"the sequence began with {began} rows a step, not {rows}", hint="begin another")


def _rows(inputs: dict[str, Array]) -> int:
    return next((array.shape[0] for array in inputs.values() if array.ndim), 1)
