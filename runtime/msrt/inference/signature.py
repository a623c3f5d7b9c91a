"""A request checked against its model, and requests joined and cut apart by rows. Touches sizes, no element.

Needs neither numpy nor an engine: this is what an edge does with tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor
from msrt.inference.tensors import ITEM_BYTES, check_strings, skip_strings
from msrt.protocol.messages import TensorSpec

__all__ = ["Signature", "join_rows", "ride_key", "split_rows"]

_SEEN_LIMIT: Final = 256
"""Distinct request shapes remembered per model."""


class Signature:
    """What a model takes and gives, compiled so that a request of a shape seen before costs one dictionary look-up."""

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        batchable: bool,
        rowwise: bool = False,
        model: str = "model",
    ) -> None:
        self.inputs: Final = inputs
        self.outputs: Final = outputs
        self.batchable: Final = batchable
        self.rowwise: Final = rowwise
        self.output_names: Final = tuple(spec.name for spec in outputs)
        self.output_dtypes: Final = {spec.name: spec.dtype for spec in outputs}
        self._model = model
        self._by_name = {spec.name: spec for spec in inputs}
        self._names = tuple(spec.name for spec in inputs)
        self._seen: dict[tuple[TensorSpec, ...], tuple[int, tuple[int, ...]]] = {}

    def check(self, specs: tuple[TensorSpec, ...], frames: Sequence[Buffer]) -> int:
        """Rows that the request has along axis 0 (1 where rows mean nothing to the model).

        Raises InvalidTensor, naming the tensor and the fault, for a missing, unknown or doubled name, a wrong dtype,
        shape or byte count.
        """
        known = self._seen.get(specs)
        if known is None:
            known = self._inspect(specs)
            if len(self._seen) >= _SEEN_LIMIT:
                self._seen.clear()
            self._seen[specs] = known
        rows, sizes = known
        if len(frames) != len(sizes):
            raise InvalidTensor(f"{len(sizes)} tensors are described, {len(frames)} came along")
        for index, size in enumerate(sizes):
            frame = frames[index]
            got = frame.nbytes if isinstance(frame, memoryview) else len(frame)
            if size < 0:
                check_strings(specs[index], frame)
            elif got != size:
                spec = specs[index]
                raise InvalidTensor(
                    f"input {spec.name!r} of {self._model}: {spec.dtype} {list(spec.shape)} takes {size} bytes, "
                    f"got {got}"
                )
        return rows

    def arrange(
        self, specs: tuple[TensorSpec, ...], frames: Sequence[Buffer]
    ) -> tuple[tuple[TensorSpec, ...], Sequence[Buffer]]:
        """A checked request in the graph's order of inputs, so that requests of different callers can be joined."""
        if len(specs) == 1 or tuple(spec.name for spec in specs) == self._names:
            return specs, frames
        place = {spec.name: index for index, spec in enumerate(specs)}
        order = [place[name] for name in self._names]
        return tuple(specs[index] for index in order), [frames[index] for index in order]

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """Raises InvalidTensor for a wanted output that the model does not have."""
        for name in names:
            if name not in self.output_names:
                raise InvalidTensor(
                    f"{self._model} has no output {name!r}", hint=f"it has {', '.join(self.output_names)}"
                )

    def _inspect(self, specs: tuple[TensorSpec, ...]) -> tuple[int, tuple[int, ...]]:
        names = [spec.name for spec in specs]
        expected = f"{self._model} takes {', '.join(map(_shown, self.inputs))}"
        for name in names:
            if name not in self._by_name:
                raise InvalidTensor(f"unknown input {name!r}", hint=expected)
            if names.count(name) > 1:
                raise InvalidTensor(f"input {name!r} comes twice", hint=expected)
        for name in self._names:
            if name not in names:
                raise InvalidTensor(f"input {name!r} is missing", hint=expected)
        rows = 0
        for spec in specs:
            self._inspect_one(spec, self._by_name[spec.name], expected)
            if self.batchable or self.rowwise:
                if rows and spec.shape[0] != rows:
                    raise InvalidTensor(f"input {spec.name!r} has {spec.shape[0]} rows where another has {rows}")
                rows = spec.shape[0]
        sizes = tuple(prod(spec.shape) * ITEM_BYTES[spec.dtype] if spec.dtype != "BYTES" else -1 for spec in specs)
        return rows or 1, sizes

    def _inspect_one(self, spec: TensorSpec, wanted: TensorSpec, expected: str) -> None:
        if spec.dtype != wanted.dtype:
            raise InvalidTensor(f"input {spec.name!r} must be {wanted.dtype}, not {spec.dtype}", hint=expected)
        if len(spec.shape) != len(wanted.shape):
            raise InvalidTensor(
                f"input {spec.name!r} must have {len(wanted.shape)} dimensions, not {len(spec.shape)}", hint=expected
            )
        for axis, (got, want) in enumerate(zip(spec.shape, wanted.shape, strict=True)):
            free = want < 0 or (axis == 0 and self.rowwise)
            if got < 1 or (not free and got != want):
                dims = list(spec.shape)
                raise InvalidTensor(f"input {spec.name!r} of shape {dims} does not fit axis {axis}", hint=expected)


# --- rows ----------------------------------------------------------------------------------------------------


def ride_key(specs: tuple[TensorSpec, ...]) -> tuple[tuple[int, ...], ...]:
    """Requests for one model may be joined when this is equal: the shapes without axis 0."""
    return tuple(spec.shape[1:] for spec in specs)


def join_rows(
    requests: Sequence[tuple[tuple[TensorSpec, ...], Sequence[Buffer]]],
) -> tuple[tuple[TensorSpec, ...], list[Buffer]]:
    """Concatenate checked and arranged requests of one `ride_key` along axis 0; a single one is not copied."""
    first, frames = requests[0]
    if len(requests) == 1:
        return first, list(frames)
    specs: list[TensorSpec] = []
    joined: list[Buffer] = []
    for index, spec in enumerate(first):
        rows = sum([request[0][index].shape[0] for request in requests])
        specs.append(TensorSpec(spec.name, spec.dtype, (rows, *spec.shape[1:])))
        joined.append(b"".join([request[1][index] for request in requests]))
    return tuple(specs), joined


def split_rows(
    specs: tuple[TensorSpec, ...], frames: Sequence[Buffer], rows: Sequence[int]
) -> list[tuple[tuple[TensorSpec, ...], list[Buffer]]]:
    """Cut answers that rode together apart again; views, no copies. Raises InvalidTensor where rows do not add up."""
    if len(rows) == 1:
        return [(specs, list(frames))]
    total = sum(rows)
    cut: list[tuple[list[TensorSpec], list[Buffer]]] = [([], []) for _ in rows]
    for spec, frame in zip(specs, frames, strict=True):
        if not spec.shape or spec.shape[0] != total:
            raise InvalidTensor(f"output {spec.name!r} of shape {list(spec.shape)} cannot be cut into {total} rows")
        view = memoryview(frame)
        rest = spec.shape[1:]
        for (its_specs, its_frames), count, (start, end) in zip(cut, rows, _bounds(spec, view, rows), strict=True):
            its_specs.append(TensorSpec(spec.name, spec.dtype, (count, *rest)))
            its_frames.append(view[start:end])
    return [(tuple(its_specs), its_frames) for its_specs, its_frames in cut]


def _bounds(spec: TensorSpec, view: memoryview, rows: Sequence[int]) -> list[tuple[int, int]]:
    bounds: list[tuple[int, int]] = []
    position = 0
    if spec.dtype == "BYTES":
        per_row = prod(spec.shape[1:])
        for count in rows:
            start, position = position, skip_strings(spec, view, position, count * per_row)
            bounds.append((start, position))
    else:
        per_row = prod(spec.shape[1:]) * ITEM_BYTES[spec.dtype]
        for count in rows:
            bounds.append((position, position + count * per_row))
            position += count * per_row
    if position != view.nbytes:
        raise InvalidTensor(f"output {spec.name!r} has {view.nbytes} bytes where its shape takes {position}")
    return bounds


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"
