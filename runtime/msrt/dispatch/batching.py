"""Who rides together, and whose rows are whose.

Requests share a batch when model, version, input names, dtypes, trailing shapes and wanted outputs are the same. Axis 0
is concatenated as raw bytes, so the byte count of every tensor is checked before: one short tensor would shift the rows
of everybody behind it.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from msrt.buffers import Buffer
from msrt.dispatch.events import Request, State
from msrt.errors import InvalidTensor
from msrt.inference.tensors import ITEM_BYTES
from msrt.protocol.messages import Inferred, TensorSpec

__all__ = ["Lane", "LaneKey", "Part", "has_nan", "join", "lane_key", "parts_of", "split", "whole"]

LaneKey = tuple[object, ...]
SMALL = 256
"""Bytes up to which Python adds numbers up sooner than numpy is called."""
_FLOATS: dict[str, np.dtype[np.floating]] = {"FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}


def lane_key(request: Request) -> LaneKey:
    """What requests must share to ride together."""
    inputs = request.inputs
    if len(inputs) == 1:
        spec = inputs[0]
        return spec.name, spec.dtype, spec.shape[1:], request.outputs, request.priority
    return (*((spec.name, spec.dtype, spec.shape[1:]) for spec in inputs), request.outputs, request.priority)


class Lane:
    """Requests that may ride together, in order of arrival; retries stand in front."""

    __slots__ = ("joinable", "priority", "queue", "strides")

    def __init__(self, sample: Request) -> None:
        self.priority = sample.priority
        self.queue: deque[Request] = deque()
        self.strides = tuple(
            ITEM_BYTES.get(spec.dtype, 0) * math.prod(spec.shape[1:]) if spec.shape else 0 for spec in sample.inputs
        )
        self.joinable = bool(self.strides) and all(self.strides)

    def measure(self, request: Request) -> None:
        """Set rows and size; raises InvalidTensor unless every tensor has the bytes that its shape says."""
        frames, inputs = request.frames, request.inputs
        if len(frames) != len(inputs):
            raise InvalidTensor(f"{len(inputs)} inputs came with {len(frames)} frames")
        if not self.joinable:
            self._measure_alone(request)
            return
        rows = inputs[0].shape[0]
        size = 0
        for spec, frame, stride in zip(inputs, frames, self.strides, strict=True):
            length = len(frame)
            if length != spec.shape[0] * stride:
                raise _miscounted(spec, length, spec.shape[0] * stride)
            size += length
            if spec.shape[0] != rows:
                request.alone = True
        if rows > 0:
            request.rows = rows
        else:
            request.alone = True
        request.size = size

    @staticmethod
    def _measure_alone(request: Request) -> None:
        request.alone = True
        request.size = 0
        for spec, frame in zip(request.inputs, request.frames, strict=True):
            item = ITEM_BYTES.get(spec.dtype)
            if item and len(frame) != item * math.prod(spec.shape):
                raise _miscounted(spec, len(frame), item * math.prod(spec.shape))
            request.size += len(frame)

    def head(self) -> Request | None:
        """The first that still waits."""
        queue = self.queue
        while queue:
            if queue[0].state is State.QUEUED:
                return queue[0]
            queue.popleft()
        return None


def _miscounted(spec: TensorSpec, got: int, want: int) -> InvalidTensor:
    return InvalidTensor(f"tensor {spec.name} of shape {list(spec.shape)} {spec.dtype} has {got} bytes, not {want}")


def join(batch: list[Request]) -> tuple[tuple[TensorSpec, ...], tuple[Buffer, ...]]:
    """One tensor per input, its rows those of all requests one after the other."""
    first = batch[0]
    if len(batch) == 1:
        return first.inputs, first.frames
    rows = sum([request.rows for request in batch])
    specs = tuple([TensorSpec(spec.name, spec.dtype, (rows, *spec.shape[1:])) for spec in first.inputs])
    if len(specs) == 1:
        return specs, (b"".join([request.frames[0] for request in batch]),)
    columns = zip(*[request.frames for request in batch], strict=True)
    return specs, tuple([b"".join(column) for column in columns])


def has_nan(outputs: Sequence[TensorSpec], frames: Sequence[Buffer]) -> bool:
    """Whether a float tensor holds NaN (which a maximum finds at the speed of memory)."""
    for spec, frame in zip(outputs, frames, strict=True):
        dtype = _FLOATS.get(spec.dtype)
        if dtype is None or not len(frame):
            continue
        if len(frame) <= SMALL and not math.isnan(sum(_numbers(dtype.char, len(frame) // dtype.itemsize)(frame))):
            continue  # else it holds one, or both infinities
        if math.isnan(np.frombuffer(frame, dtype).max()):
            return True
    return False


@cache
def _numbers(kind: str, count: int) -> Callable[[Buffer], tuple[float, ...]]:
    """Reads so many, little-endian."""
    return struct.Struct(f"<{count}{kind}").unpack


def whole(outputs: Sequence[TensorSpec], frames: Sequence[Buffer]) -> bool:
    """Whether each output has the bytes that its shape says."""
    if len(outputs) != len(frames):
        return False
    for spec, frame in zip(outputs, frames, strict=True):
        item = ITEM_BYTES.get(spec.dtype)
        if item and len(frame) != item * math.prod(spec.shape):
            return False
    return True


Part = tuple[tuple[TensorSpec, ...], list[Buffer]]
"""One request's outputs and their bytes."""


def parts_of(message: Inferred, frames: Sequence[Buffer], requests: Sequence[Request | None]) -> list[Part] | None:
    """Each request's share of the answer (None stands for one that nobody waits for); None when the answer cannot be
    trusted to be theirs."""
    rows = message.rows
    if len(rows) != len(requests):
        return None
    if len(requests) == 1:
        return [(message.outputs, list(frames))] if whole(message.outputs, frames) else None
    for request, count in zip(requests, rows, strict=True):
        if request is not None and request.rows != count:
            return None
    return split(message.outputs, frames, rows)


def split(outputs: Sequence[TensorSpec], frames: Sequence[Buffer], rows: Sequence[int]) -> list[Part] | None:
    """Each request's rows of each output, as slices; None when the outputs do not have one row per row asked."""
    total = sum(rows)
    if min(rows) < 1 or not whole(outputs, frames):
        return None
    views: list[tuple[memoryview, int]] = []
    for spec, frame in zip(outputs, frames, strict=True):
        if not spec.shape or spec.shape[0] != total or not ITEM_BYTES.get(spec.dtype):
            return None
        views.append((memoryview(frame), len(frame) // total))
    shapes: dict[int, tuple[TensorSpec, ...]] = {}
    parts: list[Part] = []
    at = 0
    for count in rows:
        specs = shapes.get(count)
        if specs is None:
            specs = tuple([TensorSpec(spec.name, spec.dtype, (count, *spec.shape[1:])) for spec in outputs])
            shapes[count] = specs
        end = at + count
        parts.append((specs, [view[at * stride : end * stride] for view, stride in views]))
        at = end
    return parts
