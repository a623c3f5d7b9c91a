"""A model's named tensors as one flat float32 vector, and both as bytes that are safe to load.

File: magic, u32 length of the header, header (JSON list of [name, shape, dtype]), float32 little endian.
No pickle: loading a stranger's file can fail, never run code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer, joined
from msrt.errors import Corrupt, InvalidJob

__all__ = ["Array", "Layout", "Slot", "Vector", "advance", "l2_norm", "load", "peek", "room_of", "save"]

Vector: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[np.generic]

MAGIC: Final = b"MSRTVEC1"
HEADER_LIMIT: Final = 4 << 20
ALIGN: Final = 64
"""The header is padded with spaces so that the elements begin aligned and are read without a copy."""
SPAN: Final = 1 << 17
DTYPES: Final = frozenset({"float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"})


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Where one tensor lies: its name, shape and the dtype it has in the model."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True):
    """The order in which named tensors lie in the flat vector."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Array]) -> Layout:
        """The layout of these tensors, in their own order. Raises InvalidJob for a dtype that is no number."""
        for name, value in tensors.items():
            if value.dtype.name not in DTYPES:
                raise InvalidJob(f"tensor {name!r} has dtype {value.dtype.name}, which cannot be averaged")
        return cls(tuple(Slot(name, tuple(value.shape), value.dtype.name) for name, value in tensors.items()))

    @property
    def size(self) -> int:
        """Elements of the flat vector."""
        return sum(slot.size for slot in self.slots)

    @property
    def digest(self) -> str:
        """SHA-256 hex of names, shapes and dtypes: what belongs to one model is no use to another."""
        return hashlib.sha256(msgspec.json.encode(self.slots)).hexdigest()

    def flatten(self, tensors: Mapping[str, Array]) -> Vector:
        """Copy the tensors into a new flat vector. Raises InvalidJob when they do not fit the layout."""
        flat = np.empty(self.size, np.float32)
        at = 0
        for slot in self.slots:
            value = tensors.get(slot.name)
            if value is None or tuple(value.shape) != slot.shape:
                found = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise InvalidJob(f"tensor {slot.name!r} is {found}, expected {slot.shape}")
            flat[at : at + slot.size] = value.reshape(-1)
            at += slot.size
        return flat

    def unflatten(self, flat: Vector) -> dict[str, Array]:
        """Tensors by name in their own dtype (views where that is float32; integers are rounded)."""
        if flat.size != self.size:
            raise InvalidJob(f"the vector has {flat.size} elements, the model {self.size}")
        tensors: dict[str, Array] = {}
        at = 0
        for slot in self.slots:
            piece = flat[at : at + slot.size].reshape(slot.shape)
            dtype = np.dtype(slot.dtype)
            whole = dtype.kind in "iub"
            tensors[slot.name] = np.rint(piece).astype(dtype) if whole else piece.astype(dtype, copy=False)
            at += slot.size
        return tensors


def save(layout: Layout, flat: Vector) -> Buffer:
    """The vector and its layout as bytes, a copy."""
    body = np.ascontiguousarray(flat, dtype="<f4")
    if body.size != layout.size:
        raise InvalidJob(f"the vector has {body.size} elements, the layout {layout.size}")
    return joined((_head(layout), body.data.cast("B")))


def room_of(layout: Layout) -> int:
    """Bytes of a file of this layout."""
    return len(_head(layout)) + 4 * layout.size


def _head(layout: Layout) -> bytes:
    header = msgspec.json.encode(layout.slots)
    header += b" " * (-(len(MAGIC) + 4 + len(header)) % ALIGN)
    return MAGIC + len(header).to_bytes(4, "little") + header


def peek(data: Buffer) -> tuple[Layout, int]:
    """The layout, and the offset at which its float32 elements begin. Raises Corrupt."""
    view = memoryview(data)
    if len(view) < len(MAGIC) + 4 or bytes(view[: len(MAGIC)]) != MAGIC:
        raise Corrupt("these bytes are not weights", hint="they begin with another magic")
    length = int.from_bytes(view[len(MAGIC) : len(MAGIC) + 4], "little")
    start = len(MAGIC) + 4 + length
    if length > HEADER_LIMIT or start > len(view):
        raise Corrupt(f"weights are cut short: a header of {length} bytes in {len(view)}")
    try:
        layout = Layout(msgspec.json.decode(view[len(MAGIC) + 4 : start], type=tuple[Slot, ...]))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the header of the weights is broken: {error}") from error
    if any(slot.dtype not in DTYPES or any(n < 0 for n in slot.shape) for slot in layout.slots):
        raise Corrupt("the header of the weights names an unknown dtype or a negative shape")
    if len(view) - start != 4 * layout.size:
        raise Corrupt(f"weights hold {len(view) - start} bytes, their header promises {4 * layout.size}")
    return layout, start


def load(data: Buffer) -> tuple[Layout, Vector]:
    """Layout and vector (a read-only view of the bytes where alignment allows it). Raises Corrupt."""
    layout, start = peek(data)
    flat = np.frombuffer(data, dtype="<f4", offset=start)
    return layout, flat


def l2_norm(flat: Vector) -> float:
    """The Euclidean norm, summed in float64 and by blocks that stay in the cache."""
    blocks = (flat[at : at + SPAN] for at in range(0, flat.size, SPAN))
    return math.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks))


def advance(weights: Buffer, mean: Vector, rate: float = 1.0) -> Buffer:
    """One step of federated averaging: the same file with `weights + rate * mean`."""
    layout, flat = load(weights)
    if mean.size != flat.size:
        raise InvalidJob(f"the aggregate has {mean.size} elements, the model {flat.size}")
    step = mean if rate == 1.0 else mean * np.float32(rate)
    return save(layout, flat + step)
