"""Tensors as raw frames beside a message, and the same as arrays.

Frames hold C order, little endian. BYTES elements are a u32 little-endian length and their bytes each, as in the Open
Inference Protocol's binary form. numpy is imported by the first array made: who only routes never pays for it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Final

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor
from msrt.protocol.messages import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "COMPUTE_NAMES",
    "ITEM_BYTES",
    "NUMPY_NAMES",
    "array_of",
    "check_strings",
    "frame_of",
    "has_nan",
    "pack_strings",
    "skip_strings",
    "spec_of",
    "strings_in",
]

ITEM_BYTES: Final = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "BF16": 2,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,
}
"""Open Inference Protocol dtypes that a model may use, and their bytes per element (BYTES: varies)."""

NUMPY_NAMES: Final = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
COMPUTE_NAMES: Final = {**NUMPY_NAMES, "BF16": "uint16"}
"""How an engine holds them: BF16, which numpy does not know, as its bits."""
_OIP_NAMES: Final = {name: dtype for dtype, name in NUMPY_NAMES.items()}
_LENGTH: Final = struct.Struct("<I")
_COPY_BELOW: Final = 32 << 10
"""Bytes under which copying an array out is cheaper than keeping a view of it alive."""


# --- strings -------------------------------------------------------------------------------------------------


def pack_strings(values: Sequence[str | bytes]) -> bytes:
    """A BYTES frame."""
    parts: list[bytes] = []
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def strings_in(spec: TensorSpec, frame: Buffer) -> list[bytes]:
    """The elements of a BYTES frame. Raises InvalidTensor when they are not as many as the shape says."""
    view = memoryview(frame)
    found: list[bytes] = []
    position = 0
    for _ in range(prod(spec.shape)):
        size = _length_at(spec, view, position)
        start = position + _LENGTH.size
        position = start + size
        found.append(bytes(view[start:position]))
    if position != view.nbytes:
        raise InvalidTensor(f"{spec.name!r}: {view.nbytes - position} bytes after the last of {len(found)} strings")
    return found


def check_strings(spec: TensorSpec, frame: Buffer) -> None:
    """Raises InvalidTensor unless a BYTES frame holds exactly as many strings as its shape says."""
    view = memoryview(frame)
    count = prod(spec.shape)
    if count * _LENGTH.size > view.nbytes:
        raise InvalidTensor(f"{spec.name!r}: {view.nbytes} bytes cannot hold {count} strings")
    end = skip_strings(spec, view, 0, count)
    if end != view.nbytes:
        raise InvalidTensor(f"{spec.name!r}: {view.nbytes - end} bytes after the last of {count} strings")


def skip_strings(spec: TensorSpec, view: memoryview, position: int, count: int) -> int:
    """Where `count` strings that begin at `position` end. Raises InvalidTensor where the frame ends before."""
    for _ in range(count):
        position += _LENGTH.size + _length_at(spec, view, position)
    return position


def _length_at(spec: TensorSpec, view: memoryview, position: int) -> int:
    if position + _LENGTH.size > view.nbytes:
        raise InvalidTensor(f"{spec.name!r}: the frame ends before its last string")
    size: int = _LENGTH.unpack_from(view, position)[0]
    if position + _LENGTH.size + size > view.nbytes:
        raise InvalidTensor(f"{spec.name!r}: a string of {size} bytes runs over the end of the frame")
    return size


# --- arrays --------------------------------------------------------------------------------------------------


def array_of(spec: TensorSpec, frame: Buffer, *, bits: bool = False) -> NDArray[Any]:
    """A checked frame as an array: a read-only view of the frame, or for BYTES an object array of str. `bits`: BF16 as
    an engine holds it.

    Raises InvalidTensor for bytes that are not as many as the shape takes, an unknown dtype, or strings not in UTF-8.
    """
    import numpy as np  # noqa: PLC0415 - an edge that only routes never pays for it

    if spec.dtype == "BYTES":
        try:
            texts = [item.decode() for item in strings_in(spec, frame)]
        except UnicodeDecodeError as error:
            raise InvalidTensor(f"{spec.name!r}: a string is not UTF-8: {error}") from error
        strings: NDArray[Any] = np.empty(len(texts), dtype=object)
        strings[:] = texts
        return strings.reshape(spec.shape)
    name: Any = NUMPY_NAMES.get(spec.dtype)
    if spec.dtype == "BF16":
        name = COMPUTE_NAMES[spec.dtype] if bits else _bfloat16(spec.name)
    if name is None:
        raise InvalidTensor(f"{spec.name!r}: no dtype {spec.dtype!r}", hint=f"known are {', '.join(ITEM_BYTES)}")
    try:
        return np.frombuffer(frame, dtype=name).reshape(spec.shape)
    except ValueError as error:
        raise InvalidTensor(
            f"{spec.name!r}: {spec.dtype} {list(spec.shape)} does not fit its bytes: {error}"
        ) from error


def _bfloat16(name: str) -> Any:
    """The type, which numpy does not have. Raises InvalidTensor without the package that has it."""
    try:
        import ml_dtypes  # noqa: PLC0415 - who has no such tensors does not need it
    except ImportError as error:
        raise InvalidTensor(f"{name!r} is BF16, which numpy does not know", hint="pip install ml_dtypes") from error
    return ml_dtypes.bfloat16


def spec_of(name: str, array: np.ndarray[Any, Any]) -> TensorSpec:
    """How an array is described. Raises InvalidTensor for a dtype that no model takes."""
    dtype = _dtype_of(array.dtype)
    if dtype is None:
        raise InvalidTensor(f"{name!r}: a tensor cannot be {array.dtype}", hint=f"known are {', '.join(ITEM_BYTES)}")
    return TensorSpec(name, dtype, array.shape)


@cache
def _dtype_of(dtype: np.dtype[Any]) -> str | None:
    """Numpy takes longer to name a dtype than all the rest of a small request does."""
    if dtype.name == "bfloat16":
        return "BF16"
    return _OIP_NAMES.get(dtype.name) or ("BYTES" if dtype.kind in "OSU" else None)


def frame_of(array: np.ndarray[Any, Any]) -> Buffer:
    """An array's elements as a frame: small ones are copied out, large contiguous ones are viewed."""
    if array.dtype.kind in "OSU":
        return pack_strings([item if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()])
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.nbytes < _COPY_BELOW or not array.flags.c_contiguous:
        return array.tobytes()
    return array.data.cast("B")


def has_nan(array: np.ndarray[Any, Any]) -> bool:
    """Whether a float array holds NaN or infinity; one pass without a temporary of its size."""
    if array.dtype.kind != "f" or not array.size:
        return False
    import numpy as np  # noqa: PLC0415 - see array_of

    # A sum meets every element: it is NaN or infinite as soon as one is (a float16 sum may overflow by itself).
    total = np.add.reduce(array, axis=None, dtype=np.float64)
    return not np.isfinite(total)
