"""Which tensors of a graph are its state: given by who pushes it, else found by their names and tried.

A pair counts as found only when both tensors have one type and rank, are named as one thing before and after
(`state` and `stateN`, `h0` and `hn`, `cache_in` and `cache_out`), and the graph runs on what it gave the step before.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from msrt.errors import InvalidModel, MsrtError
from msrt.inference.bundle import StateTensor
from msrt.inference.engine import LoadedModel
from msrt.inference.measuring import sample_inputs
from msrt.inference.stateful import StatefulModel
from msrt.protocol.messages import TensorSpec

__all__ = ["NONE", "find_pairs", "settle_shapes"]

NONE: Final = "none"
"""As `--keeps`: keep nothing, whatever the names say."""
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_BESIDE: Final = frozenset({"in", "out", "input", "output", "n", "next", "new", "prev", "old", "past", "present"})
_STATE: Final = frozenset(
    {"state", "states", "hidden", "cell", "memory", "cache", "carry", "h", "c", "hx", "cx", "lstm", "gru", "rnn"}
)
_LAST: Final = {"hn": "h", "cn": "c", "staten": "state", "hout": "h", "cout": "c", "hin": "h", "cin": "c"}


def find_pairs(model: LoadedModel, given: tuple[str, ...]) -> tuple[StateTensor, ...]:
    """`given`: IN=OUT each, or NONE; nothing: look. Raises InvalidModel for a pair that cannot be one."""
    if given == (NONE,):
        return ()
    inputs, outputs = {spec.name: spec for spec in model.inputs}, {spec.name: spec for spec in model.outputs}
    if not given:
        return _found(inputs, outputs)
    pairs = []
    for text in given:
        before, _, after = text.partition("=")
        if before not in inputs or after not in outputs:
            raise InvalidModel(
                f"--keeps {text} names no input and output of the model",
                hint=f"inputs: {', '.join(inputs)}; outputs: {', '.join(outputs)}",
            )
        if not _alike(inputs[before], outputs[after]):
            raise InvalidModel(f"--keeps {text}: the two tensors differ in type or rank")
        pairs.append(_pair(inputs[before], after))
    names = [pair.input for pair in pairs], [pair.output for pair in pairs]
    if any(len(set(each)) < len(each) for each in names):
        raise InvalidModel("--keeps names a tensor twice")
    return tuple(pairs)


def settle_shapes(
    model: LoadedModel, pairs: tuple[StateTensor, ...], sample: dict[str, tuple[int, ...]]
) -> tuple[StateTensor, ...]:
    """The pairs with their shapes settled by trial: a free axis follows the request's rows where the graph takes two,
    else it is 1. Raises InvalidModel where the graph does not run on its own state."""
    fixed = tuple(
        StateTensor(p.input, p.output, p.dtype, tuple(1 if size < 0 else size for size in p.shape)) for p in pairs
    )
    two = {name: (2, *shape[1:]) if shape else shape for name, shape in sample.items()}
    if all(p.shape.count(-1) <= 1 for p in pairs) and any(-1 in p.shape for p in pairs):
        try:
            _goes_on(StatefulModel(model, pairs), two)
            _goes_on(StatefulModel(model, pairs), sample)
        except MsrtError:
            pass
        else:
            return pairs
    _goes_on(StatefulModel(model, fixed), sample)
    return fixed


def _goes_on(model: StatefulModel, sample: dict[str, tuple[int, ...]]) -> None:
    """Two steps; the second on what the first one left."""
    inputs = sample_inputs(model.inputs, sample)
    try:
        _, first = model.step(inputs)
        _, second = model.step(inputs, (), first)
    except MsrtError as error:
        raise InvalidModel(f"the model does not run on the state that it gave: {error.text}") from error
    if [_kind(array) for array in first] != [_kind(array) for array in second]:
        raise InvalidModel("the state changes its shape from step to step", hint="msrt model push --keeps none")


def _kind(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.dtype.name, array.shape


def _found(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> tuple[StateTensor, ...]:
    pairs: list[StateTensor] = []
    for name, spec in inputs.items():
        fits = [other for other in outputs.values() if _same_thing(name, other.name) and _alike(spec, other)]
        if len(fits) == 1:
            pairs.append(_pair(spec, fits[0].name))
    taken = [pair.output for pair in pairs]
    whole = len(set(taken)) == len(taken) and len(taken) < len(outputs) and len(pairs) < len(inputs)
    return tuple(pairs) if whole else ()


def _pair(spec: TensorSpec, after: str) -> StateTensor:
    return StateTensor(spec.name, after, spec.dtype, spec.shape)


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    fits = len(one.shape) == len(other.shape) and one.dtype == other.dtype != "BYTES"
    return fits and all(a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))


def _same_thing(before: str, after: str) -> bool:
    one, other = _stem(before), _stem(after)
    return bool(one & _STATE) and one - {"0"} == other - {"0"}


def _stem(name: str) -> frozenset[str]:
    words = [word.lower() for word in _WORDS.findall(name)]
    return frozenset(_LAST.get(word, word) for word in words) - _BESIDE
