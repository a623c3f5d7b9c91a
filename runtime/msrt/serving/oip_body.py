"""The JSON of a request to a model, read as far as its words go; the numbers of its tensors are read by `oip`."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from msrt.buffers import Buffer
from msrt.errors import InvalidTensor
from msrt.serving.backend import InferRequest
from msrt.serving.oip_binary import BadRequest, How, how_of
from msrt.serving.parameters import apply_parameters

__all__ = ["FORMATS", "Body", "Input", "Wanted", "data_decoder", "extras", "read_body"]

FORMATS: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_JSON_TYPES: Final[dict[str, type]] = {
    "BOOL": bool,
    "BYTES": str,
    "BF16": float,
    "FP16": float,
    "FP32": float,
    "FP64": float,
}
"""Integers else."""


class Input(msgspec.Struct, gc=False):
    """One tensor; its numbers are not read yet."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct, gc=False):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class Body(msgspec.Struct):
    """The whole of it."""

    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


_body: Final = msgspec.json.Decoder(Body)


@functools.cache
def data_decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Reads the numbers of a tensor, nested so deep."""
    kind: Any = _JSON_TYPES.get(dtype, int)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def read_body(body: Buffer) -> Body:
    """Raises BadRequest, which names the fault."""
    try:
        return _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_request(error) from None


def _no_request(error: Exception) -> BadRequest:
    if isinstance(error, msgspec.ValidationError):
        return BadRequest(f"the body is no inference request: {error}")
    if isinstance(error, RecursionError):
        return BadRequest("the body is nested too deeply")
    return BadRequest(f"the body is not JSON: {error}")


def extras(asked: Body, request: InferRequest) -> How | None:
    """What parameters and wanted outputs say, written into the request; how the answer is wanted."""
    if len(request.outputs) > 1 and len(set(request.outputs)) < len(request.outputs):
        raise InvalidTensor("an output's name appears twice")
    parameters = asked.parameters or {}
    if parameters:
        apply_parameters(request, parameters)
    return how_of(parameters, [(output.name, output.parameters or {}) for output in asked.outputs or ()])
