"""What a caller passed, made into what a model takes, and scores into the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msrt.errors import InvalidTensor
from msrt.inference.tensors import NUMPY_NAMES, array_of
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msrt.client.request import Answer

__all__ = ["Label", "fitted", "labels_of", "needs_model"]


class Label(NamedTuple):
    """One class that a model holds likely."""

    label: str
    """Its name; its number as text where the model was pushed without names."""
    score: float
    number: int
    """Its place among the scores."""


def needs_model(inputs: object) -> bool:
    """Whether names or dtypes are left to the model: a bare array, or lists of numbers."""
    import numpy as np  # noqa: PLC0415 - `import msrt` stays light

    if type(inputs) is not dict and not isinstance(inputs, Mapping):
        return True
    return any([not isinstance(value, np.ndarray) for value in inputs.values()])  # noqa: C419 - half the time


def fitted(inputs: object, info: ModelInfo) -> dict[str, NDArray[Any]]:
    """The caller's inputs under the model's names and dtypes. Raises InvalidTensor."""
    import numpy as np  # noqa: PLC0415 - see needs_model

    wanted = {spec.name: spec for spec in info.inputs}
    if not isinstance(inputs, Mapping):
        if len(wanted) != 1:
            raise InvalidTensor(f"{info.name} has {len(wanted)} inputs", hint=f"name them: {', '.join(wanted)}")
        inputs = dict.fromkeys(wanted, inputs)
    out: dict[str, NDArray[Any]] = {}
    for name, value in inputs.items():
        spec = wanted.get(name)
        if spec is None:
            raise InvalidTensor(f"{info.name} has no input {name!r}", hint=f"it has {', '.join(wanted)}")
        dtype: Any = NUMPY_NAMES.get(spec.dtype, "object")
        if spec.dtype == "BF16":  # what an empty tensor is made of: without its package this says so
            dtype = array_of(TensorSpec(name, "BF16", (0,)), b"").dtype
        try:
            array = np.asarray(value)
            if array.ndim == len(spec.shape) - 1:
                array = array[np.newaxis]  # one row without its axis
            out[name] = array.astype(dtype, casting="same_kind" if array.dtype.kind != "i" else "unsafe", copy=False)
        except (TypeError, ValueError) as error:
            raise InvalidTensor(f"{name!r} cannot be made {spec.dtype}: {error}") from error
    return out


def labels_of(answer: Answer, output: str, names: tuple[str, ...], top: int) -> list[list[Label]]:
    """The likeliest classes of each row, the best first. Raises InvalidTensor for an output without scores."""
    import numpy as np  # noqa: PLC0415 - see needs_model

    output = output or next(iter(answer), "")
    scores = answer.get(output)
    if scores is None:
        raise InvalidTensor(f"there is no output {output!r}", hint=f"there are {', '.join(answer)}")
    if scores.dtype.kind not in "fiu" or not scores.ndim:
        raise InvalidTensor(f"{output!r} holds {scores.dtype}, no scores of classes")
    rows = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[np.newaxis]
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :top]
    return [
        [Label(names[i] if i < len(names) else str(i), float(row[i]), int(i)) for i in order]
        for row, order in zip(rows, best, strict=True)
    ]
