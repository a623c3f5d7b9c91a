"""One question and its answer, as the caller sees them and as they ride in a message. Pure but for numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor, MalformedFrame, MsrtError
from msrt.inference.tensors import array_of, frame_of, skip_strings, spec_of
from msrt.protocol.messages import Inferred, Mark, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msrt.client.front import Front
    from msrt.client.pin import Pin

__all__ = ["Answer", "Ask", "Request", "Waiter", "answers_of", "tensors_of"]

PAUSE_S: Final = 0.05
"""Before all are asked again who could not answer; doubled each time."""
NO_MARKS: Final[Mapping[str, Mark]] = {}


class Answer(dict[str, "NDArray[Any]"]):
    """The outputs by name, who made them, and how long that took. The arrays are read-only views of what came."""

    __slots__ = ("compute_s", "device", "index", "marks", "queue_s", "request_id", "seconds", "variant", "version")

    def __init__(
        self, outputs: Mapping[str, NDArray[Any]], version: int, variant: str, device: str,
        marks: Mapping[str, Mark] = NO_MARKS, compute_s: float = 0.0, queue_s: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(outputs)
        self.version = version
        """Of the model."""
        self.variant = variant
        """fp32 or int8."""
        self.device = device
        """Name of the device that computed it."""
        self.marks = marks
        """What else the edge says: `answered_by`, `escalated`, `cached`, `region` and the like."""
        self.compute_s, self.queue_s = compute_s, queue_s
        """What computing its batch took on the device, and waiting there; 0 where that was not said."""
        self.seconds = 0.0
        """From the question to the answer, as the caller saw it."""
        self.request_id = 0
        self.index = 0
        """Its place among the inputs of an `infer_many` or a `stream`."""

    def __repr__(self) -> str:
        return f"Answer({super().__repr__()}, {self.variant}@{self.version} on {self.device})"


class Ask(NamedTuple):
    """What is asked beside the tensors. Only requests with equal ones may ride together."""

    model: str
    version: int = 0
    outputs: tuple[str, ...] = ()
    priority: int = 0
    """1 urgent, 0 normal, -1 background."""
    trace: str = ""
    """W3C traceparent, empty without."""
    sequence: str = ""
    sequence_start: bool = False
    sequence_end: bool = False


class Waiter(Protocol):
    """Who waits for requests; each is settled once."""

    def settled(self, index: int, result: Answer | MsrtError) -> None:
        """The one that was asked as number `index` has this answer, or none and why."""


class Request:
    """One question on its way. Settled once, whatever happens to those who are asked."""

    __slots__ = (
        "again_at", "alone", "ask", "deadline", "done", "error", "frames", "front", "id", "index", "inputs", "key",
        "more", "pause", "pin", "rows", "since", "size", "tried", "waiter",
    )  # fmt: skip

    def __init__(
        self, ident: int, ask: Ask, inputs: tuple[TensorSpec, ...], frames: tuple[Buffer, ...],
        deadline: float, waiter: Waiter, index: int = 0, pin: Pin | None = None,
    ) -> None:  # fmt: skip
        self.id, self.ask, self.inputs, self.frames = ident, ask, inputs, frames
        self.since = 0.0
        """When it was asked."""
        self.deadline, self.waiter, self.index, self.pin = deadline, waiter, index, pin
        self.more: list[tuple[Waiter, int]] = []
        """Others who asked the same under the same id."""
        self.done = False
        self.size = sum(map(len, frames))
        if len(inputs) == 1:  # nearly all: the long way costs more than the rest of this
            one = inputs[0]
            shape = one.shape
            self.rows = shape[0] if shape and one.dtype != "BYTES" else 0
            kinds: object = (one.name, one.dtype, shape[1:])
        else:
            self.rows = rows_of(inputs)
            kinds = tuple([(i.name, i.dtype, i.shape[1:]) for i in inputs])
        self.alone = self.rows < 1 or pin is not None
        """It cannot ride with others."""
        self.key = (ask, int(deadline * 10), kinds)
        """Equal for those that may ride together."""
        self.front: Front | None = None
        """Who is being asked."""
        self.tried: tuple[Front, ...] = ()
        """Who could not answer in this turn."""
        self.again_at = 0.0
        """When it is time to ask again."""
        self.pause = PAUSE_S
        self.error: MsrtError | None = None
        """What the last one said who could not."""


def tensors_of(inputs: Mapping[str, NDArray[Any]]) -> tuple[tuple[TensorSpec, ...], tuple[Buffer, ...]]:
    """Specs and frames of arrays. Raises InvalidTensor."""
    if not inputs:
        raise InvalidTensor("a request needs at least one input")
    if len(inputs) == 1:
        [(name, array)] = inputs.items()
        return (spec_of(name, array),), (frame_of(array),)
    return tuple([spec_of(n, a) for n, a in inputs.items()]), tuple([frame_of(a) for a in inputs.values()])


def rows_of(inputs: Sequence[TensorSpec]) -> int:
    """Rows along axis 0 that all inputs share; 0 when they share none, or hold strings, which are not cut by bytes."""
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    whole = all(i.shape and i.shape[0] == rows and i.dtype != "BYTES" for i in inputs)
    return rows if whole else 0


def answers_of(message: Inferred, frames: Sequence[Buffer]) -> list[Answer]:
    """What each rider gets. Raises MalformedFrame when the parts do not add up."""
    riders = len(message.ids)
    if len(frames) != len(message.outputs) or len(message.rows) != riders:
        raise MalformedFrame(f"{len(frames)} frames for {len(message.outputs)} outputs of {riders} requests")
    parts: list[dict[str, NDArray[Any]]]
    try:
        if riders == 1:
            parts = [{s.name: array_of(s, f) for s, f in zip(message.outputs, frames, strict=True)}]
        else:
            parts = [{} for _ in message.ids]
            for spec, frame in zip(message.outputs, frames, strict=True):
                name = spec.name
                for part, piece in zip(parts, _cut(spec, frame, message.rows), strict=True):
                    part[name] = piece
    except InvalidTensor as error:
        raise MalformedFrame(error.text) from error
    version, variant, device, marks = message.version, message.variant, message.device, message.marks
    compute_s, queue_s = message.compute_us / 1e6, message.queue_us / 1e6
    return [Answer(part, version, variant, device, marks, compute_s, queue_s) for part in parts]


def _cut(spec: TensorSpec, frame: Buffer, rows: Sequence[int]) -> list[NDArray[Any]]:
    """One output, cut into the riders' rows."""
    total = spec.shape[0] if spec.shape else 0
    if total < 1 or sum(rows) != total or min(rows) < 0:
        raise InvalidTensor(f"{spec.name!r}: {total} rows for riders of {sum(rows)}")
    out: list[NDArray[Any]] = []
    start = 0
    if spec.dtype != "BYTES":
        whole = array_of(spec, frame)
        for count in rows:
            out.append(whole[start : start + count])
            start += count
        return out
    view, tail = memoryview(frame), spec.shape[1:]
    for count in rows:
        end = skip_strings(spec, view, start, count * prod(tail))
        out.append(array_of(TensorSpec(spec.name, spec.dtype, (count, *tail)), view[start:end]))
        start = end
    return out
