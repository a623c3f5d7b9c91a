"""One question and its answer, as the caller sees them and as they ride in a message. Pure but for numpy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

from msrt.errors import InvalidTensor, MalformedFrame, MsrtError
from msrt.inference.tensors import NUMPY_NAMES, array_of, frame_of, skip_strings, spec_of
from msrt.links.link import Buffer
from msrt.protocol.messages import Inferred, TensorSpec
from msrt.serving.backend import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msrt.client.front import Front

__all__ = ["Answer", "Request", "answers_of", "fitted", "needs_model", "tensors_of"]

PAUSE_S: Final = 0.05
"""Before all are asked again who could not answer; doubled each time."""


class Answer(dict[str, "NDArray[Any]"]):
    """The outputs by name, and who made them."""

    __slots__ = ("device", "variant", "version")

    def __init__(self, outputs: Mapping[str, NDArray[Any]], version: int, variant: str, device: str) -> None:
        super().__init__(outputs)
        self.version = version
        """Of the model."""
        self.variant = variant
        """fp32 or int8."""
        self.device = device
        """Name of the device that computed it."""

    def __repr__(self) -> str:
        return f"Answer({super().__repr__()}, {self.variant}@{self.version} on {self.device})"


class Request:
    """One question on its way. Settled once, whatever happens to those who are asked."""

    __slots__ = (
        "again_at", "alone", "deadline", "error", "frames", "front", "future", "id", "inputs", "key", "model",
        "outputs", "pause", "rows", "size", "tried", "version",
    )  # fmt: skip

    def __init__(
        self, ident: int, model: str, version: int, outputs: tuple[str, ...], inputs: tuple[TensorSpec, ...],
        frames: tuple[Buffer, ...], deadline: float, future: asyncio.Future[Answer],
    ) -> None:  # fmt: skip
        self.id, self.model, self.version, self.outputs = ident, model, version, outputs
        self.inputs, self.frames, self.deadline, self.future = inputs, frames, deadline, future
        self.size = sum(map(len, frames))
        self.rows = rows_of(inputs)
        self.alone = self.rows < 1
        """It cannot ride with others."""
        kinds = tuple([(i.name, i.dtype, i.shape[1:]) for i in inputs])
        self.key = (model, version, outputs, round(deadline, 1), kinds)
        """Equal for those that may ride together."""
        self.front: Front | None = None
        """Who is being asked."""
        self.tried: set[Front] = set()
        """Who could not answer in this turn."""
        self.again_at = 0.0
        """When it is time to ask again."""
        self.pause = PAUSE_S
        self.error: MsrtError | None = None
        """What the last one said who could not."""


def needs_model(inputs: object) -> bool:
    """Whether names or dtypes are left to the model: a bare array, or lists of numbers."""
    import numpy as np  # noqa: PLC0415 - `import msrt` stays light

    return not isinstance(inputs, Mapping) or not all(isinstance(value, np.ndarray) for value in inputs.values())


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
        dtype = NUMPY_NAMES.get(spec.dtype, "object")
        try:
            array = np.asarray(value)
            if array.ndim == len(spec.shape) - 1:
                array = array[np.newaxis]  # one row without its axis
            out[name] = array.astype(dtype, casting="same_kind" if array.dtype.kind != "i" else "unsafe", copy=False)
        except (TypeError, ValueError) as error:
            raise InvalidTensor(f"{name!r} cannot be made {spec.dtype}: {error}") from error
    return out


def tensors_of(inputs: Mapping[str, NDArray[Any]]) -> tuple[tuple[TensorSpec, ...], tuple[Buffer, ...]]:
    """Specs and frames of arrays. Raises InvalidTensor."""
    if not inputs:
        raise InvalidTensor("a request needs at least one input")
    return tuple([spec_of(n, a) for n, a in inputs.items()]), tuple([frame_of(a) for a in inputs.values()])


def rows_of(inputs: Sequence[TensorSpec]) -> int:
    """Rows along axis 0 that all inputs share; 0 when they share none, or hold strings, which are not cut by bytes."""
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    whole = all(i.shape and i.shape[0] == rows and i.dtype != "BYTES" for i in inputs)
    return rows if whole else 0


def answers_of(message: Inferred, frames: Sequence[Buffer]) -> list[Answer]:
    """What each rider gets. Raises MalformedFrame when the parts do not add up."""
    if len(frames) != len(message.outputs) or len(message.rows) != len(message.ids):
        raise MalformedFrame(f"{len(frames)} frames for {len(message.outputs)} outputs of {len(message.ids)} requests")
    try:
        if len(message.ids) == 1:
            outputs = {s.name: array_of(s, f) for s, f in zip(message.outputs, frames, strict=True)}
            return [Answer(outputs, message.version, message.variant, message.device)]
        parts: list[dict[str, NDArray[Any]]] = [{} for _ in message.ids]
        for spec, frame in zip(message.outputs, frames, strict=True):
            for part, (own, piece) in zip(parts, _cut(spec, frame, message.rows), strict=True):
                part[spec.name] = array_of(own, piece)
    except InvalidTensor as error:
        raise MalformedFrame(error.text) from error
    return [Answer(part, message.version, message.variant, message.device) for part in parts]


def _cut(spec: TensorSpec, frame: Buffer, rows: Sequence[int]) -> list[tuple[TensorSpec, Buffer]]:
    """One output, cut into the riders' rows."""
    total = spec.shape[0] if spec.shape else 0
    if total < 1 or sum(rows) != total:
        raise InvalidTensor(f"{spec.name!r}: {total} rows for riders of {sum(rows)}")
    view, start = memoryview(frame), 0
    out: list[tuple[TensorSpec, Buffer]] = []
    stride, tail = len(view) // total, spec.shape[1:]
    for count in rows:
        strings = spec.dtype == "BYTES"
        end = skip_strings(spec, view, start, count * prod(tail)) if strings else start + count * stride
        out.append((TensorSpec(spec.name, spec.dtype, (count, *tail)), view[start:end]))
        start = end
    return out
