"""A model with the graphs that run before and after it, in one call: who asks sees what goes in and what comes out.

What one gives the next takes by name; where each has one tensor, names need not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msrt.buffers import Buffer
from msrt.errors import InvalidModel
from msrt.inference.bundle import StateTensor
from msrt.inference.model import Loader, Model
from msrt.inference.stateful import State, StatefulModel
from msrt.protocol.messages import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Graphs", "Pipeline", "assemble", "join"]


class Graphs(NamedTuple):
    """The files of one variant; empty: no such stage."""

    model: Buffer
    pre: Buffer = b""
    post: Buffer = b""


class Join(NamedTuple):
    """`outputs` of the one stage are, in this order, `inputs` of the next."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]


class Pipeline:
    """Takes what `pre` takes, gives what `post` gives. Rows ride through it as through a model, and the model's state
    stays with it."""

    def __init__(self, model: Model, pre: Model | None = None, post: Model | None = None) -> None:
        """Raises InvalidModel where one does not give what the next one takes."""
        first, last = pre or model, post or model
        self.inputs: Final = first.inputs
        self.outputs: Final = last.outputs
        self.symbols: Final = first.symbols
        self.pairs: Final = model.pairs
        self.output_names: Final = [spec.name for spec in last.outputs]
        self._model, self._pre, self._post = model, pre, post
        self._before = join("the pre-processing graph", pre.outputs, "the model", model.inputs) if pre else None
        self._after = join("the model", model.outputs, "the post-processing graph", post.inputs) if post else None

    def run(self, inputs: dict[str, NDArray[Any]], names: Sequence[str] = ()) -> list[NDArray[Any]]:
        """The outputs in their order, or the named ones. Raises InvalidTensor, also where the shape that was asked
        with makes one stage give what the next cannot take; ModelFailed, OutOfMemory."""
        return self.step(inputs, names)[0]

    def step(
        self, inputs: dict[str, NDArray[Any]], names: Sequence[str] = (), state: State | None = None
    ) -> tuple[list[NDArray[Any]], State]:
        """As `run`, and the state after it; see `StatefulModel.step`."""
        if self._pre is not None and self._before is not None:
            found = self._pre.run(inputs, self._before.outputs)
            inputs = dict(zip(self._before.inputs, found, strict=True))
        wanted = self._after.outputs if self._after is not None else names
        after: State = ()
        if isinstance(self._model, StatefulModel):
            outputs, after = self._model.step(inputs, wanted, state)
        else:
            outputs = self._model.run(inputs, wanted)
        if self._post is not None and self._after is not None:
            outputs = self._post.run(dict(zip(self._after.inputs, outputs, strict=True)), names)
        return outputs, after


def assemble(engine: Loader, graphs: Graphs, state: tuple[StateTensor, ...] = ()) -> Model:
    """Load what is asked as one. Blocking. Raises InvalidModel and OutOfMemory."""
    model: Model = engine.load(graphs.model)
    if state:
        model = StatefulModel(model, state)
    if not graphs.pre and not graphs.post:
        return model
    return Pipeline(
        model, engine.load(graphs.pre) if graphs.pre else None, engine.load(graphs.post) if graphs.post else None
    )


def join(giver: str, given: tuple[TensorSpec, ...], taker: str, taken: tuple[TensorSpec, ...]) -> Join:
    """Which output is which input. Raises InvalidModel, naming the tensor that is missing or does not fit."""
    by_name = {spec.name: spec for spec in given}
    if len(given) == len(taken) == 1:
        by_name = {taken[0].name: given[0]}
    for spec in taken:
        found = by_name.get(spec.name)
        if found is None:
            raise InvalidModel(
                f"{taker} takes {spec.name!r}, which {giver} does not give",
                hint=f"it gives {', '.join(by_name)}: name its output so",
            )
        if not _fits(found, spec):
            raise InvalidModel(f"{giver} gives {_shown(found)}, {taker} takes {_shown(spec)}")
    return Join(tuple(by_name[spec.name].name for spec in taken), tuple(spec.name for spec in taken))


def _fits(given: TensorSpec, taken: TensorSpec) -> bool:
    if given.dtype != taken.dtype or len(given.shape) != len(taken.shape):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(given.shape, taken.shape, strict=True))


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"
