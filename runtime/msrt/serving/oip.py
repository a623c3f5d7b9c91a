"""Open Inference Protocol v2 over HTTP: bytes to tensors and back. Pure. What is binary in it: `oip_binary`.

JSON has no NaN and no infinity: a request with one is malformed, an output element that is one reads `null`.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor, MsrtError
from msrt.inference.tensors import ITEM_BYTES, pack_strings, strings_in
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferAnswer, InferRequest, ModelInfo
from msrt.serving.bfloat16 import narrowed, widened
from msrt.serving.oip_binary import MAX_DIMS, BadRequest, How, Tail, item_size, refuse_shared_memory, split
from msrt.serving.oip_body import FORMATS, Input, data_decoder, extras, read_body
from msrt.serving.oip_known import MAX_INPUTS, REMEMBERED, among_known, plan_of

__all__ = [
    "EXTENSIONS",
    "MAX_INPUTS",
    "BadRequest",
    "decode_infer",
    "encode_answer",
    "encode_error",
    "encode_metadata",
    "encode_mixed",
    "status_of",
]

EXTENSIONS: Final = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "schedule_policy",
    "sequence", "statistics",
)  # fmt: skip
"""What both fronts speak beyond the protocol itself."""

_OPENING: Final = re.compile(rb"[\[ \t\r\n]*")
_STATUS: Final = {
    "bad_request": 400,
    "conflict": 409,
    "deadline_exceeded": 504,
    "disconnected": 503,
    "disk_full": 507,
    "forbidden": 403,
    "frame_too_large": 413,
    "not_found": 404,
    "overloaded": 503,
    "peer": 503,
    "rate_limited": 429,
    "sequence_lost": 409,
    "unauthorized": 401,
    "unavailable": 503,
}


def status_of(error: MsrtError) -> int:
    """The HTTP status of an error: by its code, else by who is at fault."""
    for cls in type(error).__mro__:
        status = _STATUS.get(getattr(cls, "code", ""))
        if status is not None:
            return status
    return 500


# --- the request ---------------------------------------------------------------------------------------------


def decode_infer(
    body: Buffer, model: str, version: int = 0, *, timeout_s: float = 10.0, trace: str = "", length: bytes | None = None
) -> tuple[str, InferRequest, How | None]:
    """(id, request, how the answer is wanted) of a body; `length`: the header that says where its JSON ends, where
    tensors follow it. How is None for all JSON. Raises BadRequest or InvalidTensor, which name the fault."""
    tail = None
    if length is not None:
        body, tail = split(body, length)
        plan = plan_of(body.tobytes()) if body.nbytes <= REMEMBERED else None
        pieces = tail.cut(plan.sizes) if plan is not None else None
        if plan is not None and pieces is not None:
            return plan.ident, plan.request(model, version, pieces, timeout_s, trace), plan.how
    elif (found := among_known(body)) is not None:
        plan, frame = found
        return plan.ident, plan.request(model, version, (frame,), timeout_s, trace), plan.how
    asked = read_body(body)
    if len(asked.inputs) > MAX_INPUTS:
        raise BadRequest(f"{len(asked.inputs)} inputs are more than {MAX_INPUTS}")
    specs: list[TensorSpec] = []
    frames: list[Buffer] = []
    for given in asked.inputs:
        spec = TensorSpec(given.name, given.datatype, tuple(given.shape))
        specs.append(spec)
        frames.append(_beside(spec, given, tail) if given.parameters else _frame(spec, given))
    if tail is not None:
        tail.close()
    if len(specs) > 1 and len({spec.name for spec in specs}) < len(specs):
        raise InvalidTensor("an input's name appears twice")
    wanted = tuple([output.name for output in asked.outputs]) if asked.outputs else ()
    request = InferRequest(model, tuple(specs), tuple(frames), timeout_s, version, wanted, trace)
    return asked.id or "", request, extras(asked, request) if wanted or asked.parameters else None


def _beside(spec: TensorSpec, given: Input, tail: Tail | None) -> Buffer:
    """The bytes of an input that says more of itself."""
    parameters = given.parameters or {}
    refuse_shared_memory(spec.name, parameters)
    if "binary_data_size" not in parameters:
        return _frame(spec, given)
    if tail is None:
        raise BadRequest(
            f"{spec.name!r}: binary_data_size without the header Inference-Header-Content-Length",
            hint="it says how long the JSON before the tensors is",
        )
    if given.data:
        raise InvalidTensor(f"{spec.name!r}: data beside binary_data_size", hint="send one of them")
    return tail.take(spec, parameters["binary_data_size"])


def _frame(spec: TensorSpec, given: Input) -> bytes:
    """The tensor's bytes: `data` may be flat, in row-major order, or nested as its shape says."""
    shape, dtype = spec.shape, spec.dtype
    if dtype not in ITEM_BYTES:
        raise InvalidTensor(f"{spec.name!r}: datatype {dtype!r} is not supported", hint=f"use {', '.join(ITEM_BYTES)}")
    if len(shape) > MAX_DIMS or (shape and min(shape) < 0):
        raise InvalidTensor(f"{spec.name!r}: shape {list(shape)} cannot be")
    opening = _OPENING.match(given.data)
    depth = opening.group().count(b"[") if opening else 0
    if not depth:
        raise InvalidTensor(f"{spec.name!r}: data is missing or no array")
    try:
        values = data_decoder(dtype, min(depth, MAX_DIMS)).decode(given.data)
    except msgspec.DecodeError as error:
        raise InvalidTensor(f"{spec.name!r}: data is no array of {dtype}: {error}") from None
    if depth > 1:
        values = _flat(spec, values)
    count = math.prod(shape)
    if not count:
        item_size(spec)  # nothing else bounds the other dimensions
    if len(values) != count:
        raise InvalidTensor(f"{spec.name!r}: shape {list(shape)} has {count} elements, data has {len(values)}")
    kind = FORMATS.get(dtype)
    try:
        if kind is None:
            return pack_strings(values) if dtype == "BYTES" else narrowed(values)
        return struct.pack(f"<{count}{kind}", *values)
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


class _Elsewhere(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int]


class _Parameters(msgspec.Struct, gc=False):
    variant: str
    device: str


class _Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    parameters: _Parameters | dict[str, object]
    outputs: list[_Output] | list[_Output | _Elsewhere]
    id: str = ""


_encoder: Final = msgspec.json.Encoder()


def encode_answer(model: str, ident: str, answer: InferAnswer) -> bytes:
    """The body of an answer; outputs are flat in row-major order."""
    outputs = [
        _Output(spec.name, spec.dtype, spec.shape, _values(spec, frame))
        for spec, frame in zip(answer.outputs, answer.frames, strict=True)
    ]
    return _encoder.encode(_Answer(model, str(answer.version), _said(answer), outputs, ident))


def encode_mixed(model: str, ident: str, answer: InferAnswer, how: How) -> tuple[int, bytes]:
    """How long its JSON is, and the body; 0 when it is JSON only."""
    outputs: list[_Output | _Elsewhere] = []
    tail: list[Buffer] = []
    for spec, frame in zip(answer.outputs, answer.frames, strict=True):
        if how.is_binary(spec.name):
            size = memoryview(frame).nbytes
            outputs.append(_Elsewhere(spec.name, spec.dtype, spec.shape, {"binary_data_size": size}))
            tail.append(frame)
        else:
            outputs.append(_Output(spec.name, spec.dtype, spec.shape, _values(spec, frame)))
    head = _encoder.encode(_Answer(model, str(answer.version), _said(answer), outputs, ident))
    return (len(head), b"".join([head, *tail])) if tail else (0, head)


def _said(answer: InferAnswer) -> _Parameters | dict[str, object]:
    if answer.marks:
        return {"variant": answer.variant, "device": answer.device, **answer.marks}
    return _Parameters(answer.variant, answer.device)


def _values(spec: TensorSpec, frame: Buffer) -> Sequence[object]:
    if spec.dtype == "BYTES":
        return [value.decode(errors="replace") for value in strings_in(spec, frame)]
    if spec.dtype == "FP16":
        return struct.unpack(f"<{len(frame) // 2}e", frame)
    if spec.dtype == "BF16":
        return widened(frame)
    view = memoryview(frame)
    return view.cast(FORMATS[spec.dtype]).tolist()  # type: ignore[call-overload,no-any-return]


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
            **({"labels": info.labels} if info.labels else {}),
        }
    )
