"""Open Inference Protocol v2 in JSON: bytes to tensors and back. Pure.

JSON has no NaN and no infinity: a request with one is malformed, an output element that is one reads `null`.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from msrt.errors import CallerError, InvalidTensor, MsrtError
from msrt.inference.tensors import ITEM_BYTES, pack_strings, strings_in
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import Buffer, InferAnswer, InferRequest, ModelInfo

__all__ = ["BadRequest", "decode_infer", "encode_answer", "encode_error", "encode_metadata", "status_of"]

MAX_DIMS: Final = 8
MAX_INPUTS: Final = 64

_FORMATS: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_OPENING: Final = re.compile(rb"[\[ \t\r\n]*")
_JSON_TYPES: Final[dict[str, type]] = {"BOOL": bool, "BYTES": str, "FP16": float, "FP32": float, "FP64": float}
"""Integers else."""

_STATUS: Final = {
    "bad_request": 400,
    "conflict": 409,
    "deadline_exceeded": 504,
    "disconnected": 503,
    "forbidden": 403,
    "frame_too_large": 413,
    "not_found": 404,
    "overloaded": 503,
    "peer": 503,
    "rate_limited": 429,
    "unauthorized": 401,
    "unavailable": 503,
}


class BadRequest(CallerError):
    """A request that is no inference request, or asks for what is not supported."""


def status_of(error: MsrtError) -> int:
    """The HTTP status of an error: by its code, else by who is at fault."""
    for cls in type(error).__mro__:
        status = _STATUS.get(getattr(cls, "code", ""))
        if status is not None:
            return status
    return 500


# --- the request ---------------------------------------------------------------------------------------------


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | None = None


class _Wanted(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Wanted] | None = None


_body: Final = msgspec.json.Decoder(_Body)


@functools.cache
def _data_decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = _JSON_TYPES.get(dtype, int)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def decode_infer(
    body: Buffer, model: str, version: int = 0, *, timeout_s: float = 10.0, trace: str = ""
) -> tuple[str, InferRequest]:
    """(id, request) of a JSON body. Raises BadRequest or InvalidTensor, which name the fault."""
    try:
        asked = _body.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body is no inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if len(asked.inputs) > MAX_INPUTS:
        raise BadRequest(f"{len(asked.inputs)} inputs are more than {MAX_INPUTS}")
    if asked.parameters:
        timeout_s = min(timeout_s, _timeout(asked.parameters))
    specs, frames = [], []
    for given in asked.inputs:
        spec = TensorSpec(given.name, given.datatype, tuple(given.shape))
        specs.append(spec)
        frames.append(_frame(spec, given))
    if len(specs) > 1 and len({spec.name for spec in specs}) < len(specs):
        raise InvalidTensor("an input's name appears twice")
    wanted = _wanted(asked.outputs) if asked.outputs else ()
    return asked.id or "", InferRequest(model, tuple(specs), tuple(frames), timeout_s, version, wanted, trace)


def _timeout(parameters: dict[str, Any]) -> float:
    """Seconds, of the parameter `timeout` in microseconds; 0 or none is endless."""
    if parameters.get("binary_data_output"):
        raise BadRequest("binary_data_output is not supported, ask for JSON")
    if parameters.get("sequence_id"):
        raise BadRequest("sequences are not supported")
    value = parameters.get("timeout", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRequest("the parameter timeout is not a number of microseconds")
    return value / 1e6 if value else math.inf


def _wanted(outputs: list[_Wanted]) -> tuple[str, ...]:
    for output in outputs:
        for name in ("binary_data", "classification"):
            if output.parameters and output.parameters.get(name):
                raise BadRequest(f"output {output.name!r}: {name} is not supported")
    return tuple([output.name for output in outputs])


def _frame(spec: TensorSpec, given: _Input) -> bytes:
    """The tensor's bytes: `data` may be flat, in row-major order, or nested as its shape says."""
    shape, dtype = spec.shape, spec.dtype
    if dtype not in ITEM_BYTES:
        raise InvalidTensor(f"{spec.name!r}: datatype {dtype!r} is not supported", hint=f"use {', '.join(ITEM_BYTES)}")
    if len(shape) > MAX_DIMS or (shape and min(shape) < 0):
        raise InvalidTensor(f"{spec.name!r}: shape {list(shape)} cannot be")
    opening = _OPENING.match(given.data)
    depth = opening.group().count(b"[") if opening else 0
    if not depth:
        raise InvalidTensor(f"{spec.name!r}: data is missing or no array", hint="tensors in binary are not supported")
    try:
        values = _data_decoder(dtype, min(depth, MAX_DIMS)).decode(given.data)
    except msgspec.DecodeError as error:
        raise InvalidTensor(f"{spec.name!r}: data is no array of {dtype}: {error}") from None
    if depth > 1:
        values = _flat(spec, values)
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidTensor(f"{spec.name!r}: shape {list(shape)} has {count} elements, data has {len(values)}")
    if dtype == "BYTES":
        return pack_strings(values)
    try:
        return struct.pack(f"<{count}{_FORMATS[dtype]}", *values)
    except (struct.error, OverflowError) as error:
        raise InvalidTensor(f"{spec.name!r}: an element is out of the range of {dtype}: {error}") from None


def _flat(spec: TensorSpec, values: list[Any]) -> list[Any]:
    """Nested lists, level by level; each level must have the length that the shape says."""
    depth = len(spec.shape)
    for level, length in enumerate(spec.shape[:-1]):
        if level == 0 and len(values) != length:
            raise InvalidTensor(f"{spec.name!r}: shape {list(spec.shape)} does not match data of {len(values)} rows")
        if values and not isinstance(values[0], list):
            raise InvalidTensor(f"{spec.name!r}: data is nested {level + 1} deep, its shape has {depth} dimensions")
        size = spec.shape[level + 1]
        if any(len(inner) != size for inner in values):
            raise InvalidTensor(f"{spec.name!r}: data is not nested as its shape {list(spec.shape)} says")
        values = list(itertools.chain.from_iterable(values))
    if values and isinstance(values[0], list):
        raise InvalidTensor(f"{spec.name!r}: data is nested deeper than its shape {list(spec.shape)} says")
    return values


# --- the answer ----------------------------------------------------------------------------------------------


class _Output(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any


class _Parameters(msgspec.Struct, gc=False):
    variant: str
    device: str


class _Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    parameters: _Parameters | dict[str, object]
    outputs: list[_Output]
    id: str = ""


_encoder: Final = msgspec.json.Encoder()


def encode_answer(model: str, ident: str, answer: InferAnswer) -> bytes:
    """The body of an answer; outputs are flat in row-major order."""
    outputs = [
        _Output(spec.name, spec.dtype, spec.shape, _values(spec, frame))
        for spec, frame in zip(answer.outputs, answer.frames, strict=True)
    ]
    parameters: _Parameters | dict[str, object] = _Parameters(answer.variant, answer.device)
    if answer.marks:
        parameters = {"variant": answer.variant, "device": answer.device, **answer.marks}
    return _encoder.encode(_Answer(model, str(answer.version), parameters, outputs, ident))


def _values(spec: TensorSpec, frame: Buffer) -> Sequence[object]:
    if spec.dtype == "BYTES":
        return [value.decode(errors="replace") for value in strings_in(spec, frame)]
    if spec.dtype == "FP16":
        return struct.unpack(f"<{len(frame) // 2}e", frame)
    view = memoryview(frame)
    return view.cast(_FORMATS[spec.dtype]).tolist()  # type: ignore[call-overload,no-any-return]


def encode_error(error: MsrtError | str) -> bytes:
    return _encoder.encode({"error": str(error)})


def encode_metadata(info: ModelInfo) -> bytes:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "datatype": spec.dtype, "shape": spec.shape} for spec in specs]

    return _encoder.encode(
        {
            "name": info.name,
            "versions": [str(version) for version in info.versions],
            "platform": info.platform,
            "inputs": tensors(info.inputs),
            "outputs": tensors(info.outputs),
        }
    )
