"""What the parameters of a request mean, and outputs as classes: the same for REST and gRPC. Pure."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msrt.buffers import Buffer
from msrt.errors import CallerError, InvalidTensor, NotFound, Unavailable
from msrt.inference.tensors import pack_strings
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import Backend, InferAnswer, InferRequest
from msrt.serving.bfloat16 import widened

__all__ = ["apply_parameters", "class_count", "classified", "labels_of"]

_FORMATS: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_PRIORITIES: Final = {0: 0, 1: 1, 2: 0}
"""The protocol counts from the most urgent on, 0 being the default; beyond 2 it is background."""
_SEQUENCE_ID: Final = 128


def apply_parameters(request: InferRequest, parameters: Mapping[str, Any]) -> None:
    """Priority, timeout and sequence, written into the request; a timeout only shortens it. Others are let be.

    Raises CallerError, which names the parameter.
    """
    timeout = _whole(parameters, "timeout")  # microseconds; 0 is endless
    if timeout:
        request.timeout_s = min(request.timeout_s, timeout / 1e6)
    priority = _whole(parameters, "priority")
    if priority:
        request.priority = _PRIORITIES.get(priority, -1)
    sequence = parameters.get("sequence_id")
    if sequence:
        if isinstance(sequence, bool) or not isinstance(sequence, int | str) or len(str(sequence)) > _SEQUENCE_ID:
            raise CallerError("the parameter sequence_id is no number and no short text")
        request.sequence = str(sequence)
        request.sequence_start = _flag(parameters, "sequence_start")
        request.sequence_end = _flag(parameters, "sequence_end")


def _whole(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CallerError(f"the parameter {name} is not a number from 0 on")
    return value


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise CallerError(f"the parameter {name} is neither true nor false")
    return value


# --- the classification extension ------------------------------------------------------------------------------------


def class_count(output: str, value: object) -> int:
    """How many classes of an output are wanted, 0 for the tensor itself. Raises CallerError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CallerError(f"output {output!r}: classification is not a number of classes")
    return value


def labels_of(backend: Backend, model: str, version: int) -> dict[str, Sequence[str]]:
    """Labels by output; none where the version that answered is known elsewhere only."""
    try:
        info = backend.metadata(model, version)
    except (NotFound, Unavailable):
        return {}
    return {spec.name: info.labels for spec in info.outputs[:1]}


def classified(answer: InferAnswer, wanted: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> InferAnswer:
    """The answer with those outputs as their best classes, `value:index[:label]`, the best first; the first of several
    axes is the batch. Raises InvalidTensor for an output that has no numbers to compare.
    """
    outputs: list[TensorSpec] = []
    frames: list[Buffer] = []
    for spec, frame in zip(answer.outputs, answer.frames, strict=True):
        count = wanted.get(spec.name, 0)
        one = _classes(spec, frame, count, labels.get(spec.name, ())) if count else (spec, frame)
        outputs.append(one[0])
        frames.append(one[1])
    return InferAnswer(answer.version, answer.variant, answer.device, tuple(outputs), frames, answer.marks)


def _classes(spec: TensorSpec, frame: Buffer, count: int, labels: Sequence[str]) -> tuple[TensorSpec, bytes]:
    kind = _FORMATS.get(spec.dtype)
    values: Sequence[float]
    if spec.dtype == "BF16":
        kind, values = "f", widened(frame)
    elif kind is None:
        raise InvalidTensor(f"output {spec.name!r} is {spec.dtype}: it has no classes")
    else:
        view = memoryview(frame)
        values = struct.unpack(f"<{view.nbytes // struct.calcsize(kind)}{kind}", view)
    rows = spec.shape[0] if len(spec.shape) > 1 else 1
    width = len(values) // rows if rows else 0
    count = min(count, width)
    form = "{:f}" if kind in "efd" else "{:d}"
    texts = []
    for start in range(0, rows * width, width or 1):
        row = values[start : start + width]
        for index in heapq.nlargest(count, range(width), key=row.__getitem__):
            label = f":{labels[index]}" if index < len(labels) else ""
            texts.append(f"{form.format(row[index])}:{index}{label}")
    shape = (rows, count) if len(spec.shape) > 1 else (count,)
    return TensorSpec(spec.name, "BYTES", shape), pack_strings(texts)
