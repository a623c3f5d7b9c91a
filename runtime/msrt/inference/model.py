"""What runs: the shape that a loaded graph, a graph less its state, and a graph between its stages have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msrt.buffers import Buffer
from msrt.protocol.messages import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msrt.inference.bundle import StateTensor

__all__ = ["Loader", "Model", "Runs"]


class Runs(Protocol):
    """What can be asked."""

    def run(self, inputs: dict[str, NDArray[Any]], names: Sequence[str] = ()) -> list[NDArray[Any]]:
        """The outputs in their order, or the named ones. Raises InvalidTensor, ModelFailed and OutOfMemory."""
        ...


class Model(Runs, Protocol):
    """What can be held against a manifest."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """-1 for a free dimension, as in `outputs`."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def symbols(self) -> dict[str, tuple[str, ...]]:
        """By input, the names of its dimensions; empty for one that has none."""
        ...

    @property
    def pairs(self) -> tuple[StateTensor, ...]:
        """What it keeps from step to step."""
        ...


class Loader(Protocol):
    """An engine."""

    def load(self, model: Buffer) -> Model:
        """Blocking. Raises InvalidModel and OutOfMemory."""
        ...
