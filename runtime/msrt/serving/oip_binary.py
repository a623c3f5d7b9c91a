"""The protocol's binary tensors: a body is JSON, then the bytes of its tensors one after the other. Pure.

Which tensors come so, each one says by its parameter `binary_data_size`; how long the JSON is, the header
Inference-Header-Content-Length says. Sizes are counted against shapes before anything else looks at the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from msrt.buffers import Buffer
from msrt.errors import CallerError, InvalidTensor
from msrt.inference.tensors import ITEM_BYTES, check_strings
from msrt.protocol.messages import TensorSpec
from msrt.serving.parameters import class_count

__all__ = [
    "LENGTH_HEADER",
    "MAX_DIMS",
    "BadRequest",
    "How",
    "Tail",
    "check_frame",
    "how_of",
    "item_size",
    "refuse_shared_memory",
    "split",
]

MAX_DIMS: Final = 8
MAX_DIM: Final = 1 << 40
"""Of a tensor without elements: where there are some, their bytes bound it."""
LENGTH_HEADER: Final = b"inference-header-content-length"
_VIEW_FROM: Final = 32 << 10
"""Bytes from which a view of the body is cheaper than a copy; below, a view would only keep the body alive."""


class BadRequest(CallerError):
    """A request that is no inference request, or asks for what is not supported."""


# --- one tensor ----------------------------------------------------------------------------------------------


def item_size(spec: TensorSpec) -> int:
    """Bytes of one element, 0 for BYTES. Raises InvalidTensor for a spec that cannot be."""
    size = ITEM_BYTES.get(spec.dtype)
    if size is None:
        raise InvalidTensor(
            f"{spec.name!r}: datatype {spec.dtype!r} is not supported", hint=f"use {', '.join(ITEM_BYTES)}"
        )
    shape = spec.shape
    if len(shape) > MAX_DIMS or (shape and (min(shape) < 0 or (0 in shape and max(shape) > MAX_DIM))):
        raise InvalidTensor(f"{spec.name!r}: shape {list(shape)} cannot be")
    return size


def check_frame(spec: TensorSpec, frame: Buffer) -> None:
    """Raises InvalidTensor unless the bytes are as many as the shape takes."""
    size = item_size(spec)
    if not size:
        check_strings(spec, frame)
    elif len(frame) != size * math.prod(spec.shape):
        takes = size * math.prod(spec.shape)
        raise InvalidTensor(f"{spec.name!r}: {spec.dtype} {list(spec.shape)} takes {takes} bytes, got {len(frame)}")


# --- the request ---------------------------------------------------------------------------------------------


class Tail:
    """The bytes behind the JSON; inputs take theirs in the order in which they are named."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def take(self, spec: TensorSpec, size: object) -> Buffer:
        """Raises InvalidTensor for a size that is none, is not there, or does not fit the shape."""
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidTensor(f"{spec.name!r}: binary_data_size is not a number of bytes")
        left = self._view.nbytes - self._at
        if size > left:
            raise InvalidTensor(
                f"{spec.name!r}: binary_data_size is {size}, of the body's tensors {left} bytes are left"
            )
        piece = self._view[self._at : self._at + size]
        self._at += size
        frame: Buffer = piece if size >= _VIEW_FROM else piece.tobytes()
        check_frame(spec, frame)
        return frame

    def cut(self, sizes: Sequence[int]) -> tuple[Buffer, ...] | None:
        """Pieces of these sizes; None unless they are all that there is."""
        view, start, pieces = self._view, 0, []
        if sum(sizes) != view.nbytes:
            return None
        for size in sizes:
            piece = view[start : start + size]
            pieces.append(piece if size >= _VIEW_FROM else piece.tobytes())
            start += size
        return tuple(pieces)

    def close(self) -> None:
        """Raises BadRequest for bytes that belong to no input."""
        left = self._view.nbytes - self._at
        if left:
            raise BadRequest(f"{left} bytes after the last tensor", hint="each takes binary_data_size bytes")


def split(body: Buffer, length: bytes) -> tuple[memoryview, Tail]:
    """The JSON, and what is behind it. Raises BadRequest for a length that is none, or longer than the body."""
    text = length.strip()
    view = memoryview(body)
    if not text.isdigit() or len(text) > 18:
        raise BadRequest("the header Inference-Header-Content-Length is not a number of bytes")
    if int(text) > view.nbytes:
        raise BadRequest(f"the header Inference-Header-Content-Length is {int(text)}, the body has {view.nbytes} bytes")
    return view[: int(text)], Tail(view[int(text) :])


# --- the answer ----------------------------------------------------------------------------------------------


class How(NamedTuple):
    """How an answer is written that is not all tensors in JSON."""

    binary: bool
    """What holds for outputs of which nothing is said."""
    chosen: Mapping[str, bool]
    """Outputs of which it is said whether they are binary."""
    classes: Mapping[str, int]
    """Outputs wanted as so many of their best classes."""

    def is_binary(self, output: str) -> bool:
        return self.chosen.get(output, self.binary)


def how_of(parameters: Mapping[str, Any], outputs: list[tuple[str, dict[str, Any]]]) -> How | None:
    """None: all JSON. Raises CallerError, which names the output and what is wrong."""
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise BadRequest("the parameter binary_data_output is neither true nor false")
    chosen: dict[str, bool] = {}
    classes: dict[str, int] = {}
    for name, said in outputs:
        refuse_shared_memory(name, said)
        if "binary_data" in said:
            if not isinstance(said["binary_data"], bool):
                raise BadRequest(f"output {name!r}: binary_data is neither true nor false")
            chosen[name] = said["binary_data"]
        count = class_count(name, said.get("classification", 0))
        if count:
            classes[name] = count
    if not (binary or classes or True in chosen.values()):
        return None
    return How(binary, chosen, classes)


def refuse_shared_memory(tensor: str, parameters: Mapping[str, Any]) -> None:
    """Raises BadRequest for a tensor that lies elsewhere."""
    if "shared_memory_region" in parameters:
        raise BadRequest(f"{tensor!r}: shared memory is unsupported", hint="send and take tensors with the request")
