"""Requests and answers of the Open Inference Protocol as a client writes and reads them, with the binary tensor
extension where the server has it, else in JSON. Pure but for numpy.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from msrt import errors
from msrt.buffers import Buffer
from msrt.client.request import Answer, Ask, Request
from msrt.inference.tensors import NUMPY_NAMES, array_of
from msrt.protocol.messages import Mark, TensorSpec
from msrt.serving.bfloat16 import narrowed
from msrt.serving.oip_binary import split

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tensor", "decode_answer", "decoded", "encode_request", "error_of"]

HEADS: Final = 256
"""Kinds of requests whose JSON is remembered."""
_PRIORITY = {1: 1, -1: 3}
"""The protocol counts from the most urgent on; 0 is the default."""


class Tensor(msgspec.Struct):
    """An output, or what the metadata says of one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] = []
    parameters: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    outputs: list[Tensor]
    model_version: str = ""
    parameters: dict[str, Any] = {}


class _Error(msgspec.Struct):
    error: str = ""


# --- out -------------------------------------------------------------------------------------------------------------


def encode_request(request: Request, *, binary: bool) -> tuple[list[Buffer], int]:
    """The body in parts, tensors not copied, and the length of its JSON; 0 where all of it is JSON.

    Raises InvalidTensor.
    """
    if not binary:
        data = [
            {"data": _flat(array_of(spec, frame))} for spec, frame in zip(request.inputs, request.frames, strict=True)
        ]
        return [_json(request.ask, request.inputs, data, {})], 0
    ask, sizes = request.ask, tuple([len(frame) for frame in request.frames])
    if ask.trace:  # it is said in a header
        ask = ask._replace(trace="")
    head = _head(ask, request.inputs, sizes)
    return [head, *request.frames], len(head)


@lru_cache(HEADS)
def _head(ask: Ask, inputs: tuple[TensorSpec, ...], sizes: tuple[int, ...]) -> bytes:
    """The JSON before binary tensors. Without an id, which HTTP needs none of, it is the same for all requests of a
    kind: so it is written once here, and read once by the edge."""
    said = [{"parameters": {"binary_data_size": size}} for size in sizes]
    return _json(ask, inputs, said, {"binary_data_output": True})


def _json(
    ask: Ask, inputs: tuple[TensorSpec, ...], more: Sequence[Mapping[str, object]], parameters: dict[str, object]
) -> bytes:
    asked: dict[str, object] = {
        "inputs": [
            {"name": spec.name, "datatype": spec.dtype, "shape": spec.shape, **own}
            for spec, own in zip(inputs, more, strict=True)
        ]
    }
    parameters |= _parameters(ask)
    if parameters:
        asked["parameters"] = parameters
    if ask.outputs:
        asked["outputs"] = [{"name": name} for name in ask.outputs]
    return msgspec.json.encode(asked)


def _parameters(ask: Ask) -> dict[str, object]:
    out: dict[str, object] = {}
    if ask.priority:
        out["priority"] = _PRIORITY[ask.priority]
    if ask.sequence:
        out["sequence_id"] = ask.sequence
        out["sequence_start"], out["sequence_end"] = ask.sequence_start, ask.sequence_end
    return out


def _flat(array: NDArray[Any]) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "f" and not all(map(math.isfinite, values)):
        raise errors.InvalidTensor("NaN and infinity cannot be sent as JSON", hint="use a tcp:// address")
    return values


# --- in --------------------------------------------------------------------------------------------------------------


def decode_answer(body: memoryview, length: bytes | None) -> Answer:
    """An answer; its large binary tensors are views of the body. `length`: the header that says where its JSON ends.

    Raises MalformedFrame.
    """
    outputs: dict[str, NDArray[Any]] = {}
    try:
        tail = None
        if length is not None:
            body, tail = split(body.toreadonly(), length)
        found: _Answer = decoded(body, _Answer)
        for tensor in found.outputs:
            size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
            if size is None or tail is None:
                outputs[tensor.name] = _array(tensor)
            else:
                spec = TensorSpec(tensor.name, tensor.datatype, tensor.shape)
                outputs[tensor.name] = array_of(spec, tail.take(spec, size))
        if tail is not None:
            tail.close()
    except errors.CallerError as error:
        raise errors.MalformedFrame(f"the answer contradicts itself: {error}") from error
    version = int(found.model_version) if found.model_version.isdecimal() else 0
    marks: dict[str, Mark] = found.parameters
    variant, device = str(marks.pop("variant", "")), str(marks.pop("device", ""))
    return Answer(outputs, version, variant, device, marks)


def _array(tensor: Tensor) -> NDArray[Any]:
    import numpy as np  # noqa: PLC0415 - `import msrt` stays light

    if tensor.datatype == "BF16":
        try:
            return array_of(TensorSpec(tensor.name, "BF16", tensor.shape), narrowed(tensor.data))
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            raise errors.InvalidTensor(f"output {tensor.name!r}: {error}") from error
    dtype = NUMPY_NAMES.get(tensor.datatype, "object")
    values = [math.nan if v is None else v for v in tensor.data] if dtype.startswith("float") else tensor.data
    try:
        with np.errstate(over="raise"):  # a number beyond its type is no answer, rather than infinite
            array = np.array(values, dtype=dtype).reshape(tensor.shape)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise errors.InvalidTensor(f"output {tensor.name!r}: {error}") from error
    array.flags.writeable = False
    return array


def decoded(body: Buffer, kind: type[Any]) -> Any:
    """Raises MalformedFrame."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.MalformedFrame(f"not an answer of an edge: {error}") from error


_STATUS: dict[int, type[errors.MsrtError]] = {
    400: errors.InvalidTensor, 401: errors.Unauthorized, 403: errors.Forbidden, 404: errors.NotFound,
    409: errors.Conflict, 413: errors.FrameTooLarge, 429: errors.RateLimited, 503: errors.Overloaded,
    504: errors.DeadlineExceeded, 507: errors.DiskFull,
}  # fmt: skip


def error_of(status: int, body: Buffer, code: bytes, retry_after: bytes) -> errors.MsrtError:
    """What the server means: by the code that it names, else by its status. `str(error)` is what it said."""
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    name = code.decode("latin-1") or _STATUS.get(status, errors.PeerError).code
    error = errors.from_wire(name, text or f"the server answered {status}")
    error.hint = ""  # it stands in the text
    if isinstance(error, errors.Overloaded):
        error.retry_after = float(retry_after) if retry_after.isdigit() else 0.0
    return error
