"""ModelInferRequest to InferRequest, InferAnswer to ModelInferResponse, in bytes. Pure.

An answer is written by hand: what precedes its tensors is the same for most answers of a model, and is remembered; the
parts of a protobuf message may simply follow each other.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from msrt.buffers import Buffer
from msrt.errors import InvalidAddress, InvalidTensor, NotFound
from msrt.inference.tensors import pack_strings
from msrt.protocol.address import ModelName
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import InferAnswer, InferRequest
from msrt.serving.grpc.messages import ModelInferRequest, ModelInferResponse
from msrt.serving.oip import MAX_INPUTS, BadRequest
from msrt.serving.oip_binary import check_frame, item_size, refuse_shared_memory
from msrt.serving.parameters import apply_parameters, class_count

__all__ = ["FINAL", "Question", "decode_request", "encode_answer", "field", "model_of", "parse"]

_CONTENTS: Final = {
    "BOOL": ("bool_contents", "?"), "INT8": ("int_contents", "b"), "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"), "INT64": ("int64_contents", "q"), "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"), "UINT32": ("uint_contents", "I"), "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"), "FP64": ("fp64_contents", "d"), "BYTES": ("bytes_contents", ""),
}  # fmt: skip
"""Where the elements of a datatype lie, and their C type. FP16 and BF16 have no such place: they come raw."""
_REMEMBERED: Final = 1024
_ID: Final = b"\x1a"
_RAW: Final = b"\x32"
"""Tags of ModelInferResponse: field 3 and field 6, both of a length and bytes."""

FINAL: Final[bytes] = ModelInferResponse(parameters={"triton_final_response": {"bool_param": True}}).SerializeToString()
"""Added to an answer in a stream: nothing more comes for this request."""

_names: dict[tuple[str, str], tuple[str, int]] = {}
_heads: dict[tuple[object, ...], bytes] = {}


class Question(NamedTuple):
    """A request as it was asked."""

    ident: str
    request: InferRequest
    classes: dict[str, int]
    """Outputs wanted as so many of their best classes."""


# --- the request -----------------------------------------------------------------------------------------------------


def parse(kind: Any, data: bytes) -> Any:
    """One message. Raises BadRequest."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BadRequest(f"{len(data)} bytes are no {kind.DESCRIPTOR.name}") from None


def model_of(name: str, version: str) -> tuple[str, int]:
    """Canonical name, and version or 0. Raises NotFound."""
    found = _names.get((name, version))
    if found is None:
        try:
            parsed = ModelName.parse(f"{name}@{version}" if version else name)
        except InvalidAddress as error:
            raise NotFound(error.text, hint=error.hint) from None
        if len(_names) >= _REMEMBERED:
            _names.clear()
        found = _names[name, version] = parsed.name, parsed.version
    return found


def decode_request(data: bytes, *, timeout_s: float, trace: str = "") -> Question:
    """Raises BadRequest, NotFound or InvalidTensor, which name the fault."""
    asked = parse(ModelInferRequest, data)
    model, version = model_of(asked.model_name, asked.model_version)
    given, raw = asked.inputs, asked.raw_input_contents
    if len(given) > MAX_INPUTS:
        raise BadRequest(f"{len(given)} inputs are more than {MAX_INPUTS}")
    specs = tuple([TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in given])
    for one in given:
        if one.parameters:
            _values(one.parameters, one.name)
    if len(specs) > 1 and len({spec.name for spec in specs}) < len(specs):
        raise InvalidTensor("an input's name appears twice")
    frames: tuple[Buffer, ...]
    if raw:
        if len(raw) != len(specs):
            raise InvalidTensor(f"{len(specs)} inputs and {len(raw)} raw_input_contents")
        frames = tuple(raw)
        for spec, one, frame in zip(specs, given, frames, strict=True):
            if one.HasField("contents"):
                raise InvalidTensor(f"{spec.name!r}: contents beside raw_input_contents", hint="send one of them")
            check_frame(spec, frame)
    else:
        frames = tuple([_packed(spec, one) for spec, one in zip(specs, given, strict=True)])
    request = InferRequest(model, specs, frames, timeout_s, version, trace=trace)
    if asked.parameters:
        apply_parameters(request, _values(asked.parameters))
    return Question(asked.id, request, _wanted(asked.outputs, request) if asked.outputs else {})


def _wanted(outputs: Any, request: InferRequest) -> dict[str, int]:
    """The outputs' names into the request; those that are wanted as classes."""
    request.outputs = tuple([output.name for output in outputs])
    classes = {}
    for output in outputs:
        if output.parameters:
            count = class_count(output.name, _values(output.parameters, output.name).get("classification", 0))
            if count:
                classes[output.name] = count
    return classes


def _values(parameters: Any, tensor: str = "") -> dict[str, Any]:
    """Parameters as plain values. Raises BadRequest for a tensor that lies elsewhere."""
    if tensor:
        refuse_shared_memory(tensor, parameters)
    return {name: getattr(one, one.WhichOneof("parameter_choice") or "bool_param") for name, one in parameters.items()}


def _packed(spec: TensorSpec, given: Any) -> bytes:
    """The bytes of a tensor that came as a list of values."""
    item_size(spec)
    field_name, kind = _CONTENTS.get(spec.dtype, ("", ""))
    if not field_name:
        raise InvalidTensor(f"{spec.name!r}: {spec.dtype} can only come in raw_input_contents")
    values = getattr(given.contents, field_name)
    count = math.prod(spec.shape)
    if len(values) != count:
        raise InvalidTensor(
            f"{spec.name!r}: shape {list(spec.shape)} has {count} elements, {field_name} has {len(values)}"
        )
    if not kind:
        return pack_strings(values)
    try:
        return struct.pack(f"<{count}{kind}", *values)
    except struct.error as error:
        raise InvalidTensor(f"{spec.name!r}: an element is out of the range of {spec.dtype}: {error}") from None


# --- the answer ------------------------------------------------------------------------------------------------------


def encode_answer(model: str, ident: str, answer: InferAnswer) -> bytes:
    """A ModelInferResponse; every output is raw."""
    key = (model, answer.version, answer.variant, answer.device, answer.outputs)
    parts: list[Buffer] = [_heads.get(key) or _head(key)]
    if answer.marks:
        marks = {name: parameter(value) for name, value in answer.marks.items()}
        parts.append(ModelInferResponse(parameters=marks).SerializeToString())
    if ident:
        parts += field(_ID, ident.encode())
    for frame in answer.frames:
        parts += field(_RAW, frame)
    return b"".join(parts)


def _head(key: tuple[Any, ...]) -> bytes:
    model, version, variant, device, outputs = key
    message = ModelInferResponse(
        model_name=model,
        model_version=str(version),
        parameters={"variant": parameter(variant), "device": parameter(device)},
        outputs=[{"name": spec.name, "datatype": spec.dtype, "shape": spec.shape} for spec in outputs],
    )
    if len(_heads) >= _REMEMBERED:
        _heads.clear()
    head: bytes = message.SerializeToString()
    _heads[key] = head
    return head


def parameter(value: object) -> dict[str, object]:
    """An InferParameter."""
    match value:
        case bool():
            return {"bool_param": value}
        case int():
            return {"int64_param": value}
        case float():
            return {"double_param": value}
        case _:
            return {"string_param": str(value)}


def field(tag: bytes, data: Buffer) -> tuple[bytes, bytes, Buffer]:
    """One field of a length and bytes."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size < 0x80:
        return tag, bytes((size,)), data
    count = bytearray()
    while size > 0x7F:
        count.append(size & 0x7F | 0x80)
        size >>= 7
    count.append(size)
    return tag, bytes(count), data
