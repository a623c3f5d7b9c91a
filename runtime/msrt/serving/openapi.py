"""The REST front as an OpenAPI document, made of one table: what a path is for, what it takes and what it gives.
Methods and rights are those of `routes`. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from msrt.inference.tensors import ITEM_BYTES
from msrt.serving.oip_binary import MAX_DIM, MAX_DIMS
from msrt.serving.routes import METHODS, NEEDS, Ask

__all__ = ["PATHS", "document"]

Json = dict[str, Any]


class Path(NamedTuple):
    """One path, or one of the forms of one."""

    path: str
    ask: Ask
    summary: str
    answer: str
    """Name of the schema of a 200; a media type for what is no JSON; empty: it never succeeds."""
    body: str = ""
    """Name of the schema of what is posted."""


_OF_MODEL: Final = (
    ("", Ask.MODEL, "Inputs, outputs and versions of a model", "Model", ""),
    ("/ready", Ask.MODEL_READY, "Whether it can answer now", "ModelReady", ""),
    ("/config", Ask.CONFIG, "Its configuration in Triton's terms", "ModelConfig", ""),
    ("/stats", Ask.STATISTICS, "Counts and times since this node started", "Statistics", ""),
    ("/infer", Ask.INFER, "Ask it", "InferResponse", "InferRequest"),
)
_UNSUPPORTED: Final = (
    "/v2/trace/setting", "/v2/models/{model}/trace/setting", "/v2/logging", "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/{region}/status", "/v2/systemsharedmemory/region/{region}/register",
    "/v2/systemsharedmemory/unregister", "/v2/systemsharedmemory/region/{region}/unregister",
    "/v2/cudasharedmemory/status", "/v2/cudasharedmemory/region/{region}/status",
    "/v2/cudasharedmemory/region/{region}/register", "/v2/cudasharedmemory/unregister",
    "/v2/cudasharedmemory/region/{region}/unregister",
)  # fmt: skip
PATHS: Final = (
    Path("/v2", Ask.SERVER, "Name, version and extensions of this server", "Server"),
    Path("/v2/health/live", Ask.LIVE, "Whether it lives", "Live"),
    Path("/v2/health/ready", Ask.READY, "Whether it can work; 503 when not", "Ready"),
    Path("/v2/openapi.json", Ask.OPENAPI, "This document", "Any"),
    *(
        Path(f"/v2/models/{{model}}{version}{ending}", ask, summary, answer, body)
        for version in ("", "/versions/{version}")
        for ending, ask, summary, answer, body in _OF_MODEL
    ),
    Path("/v2/models/stats", Ask.STATISTICS, "Counts and times of all models", "Statistics"),
    Path("/v2/repository/index", Ask.INDEX, "Every version that is known here", "Index", "IndexRequest"),
    Path("/v2/repository/models/{model}/load", Ask.LOAD, "Roll out its newest version here", "Any", "LoadRequest"),
    Path("/v2/repository/models/{model}/unload", Ask.UNLOAD, "Let it answer no more here", "Any", "UnloadRequest"),
    *(Path(path, Ask.UNSUPPORTED, "Unsupported", "", "Any") for path in _UNSUPPORTED),
    Path("/msrt/v1/edges", Ask.EDGES, "Where else to go, this node first", "Any"),
    Path("/msrt/v1/events", Ask.EVENTS, "Events as they happen", "text/event-stream"),
    Path("/metrics", Ask.METRICS, "Prometheus text", "text/plain"),
)

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_FLAG: Final[Json] = {"type": "boolean"}
_DTYPE: Final[Json] = {"type": "string", "enum": list(ITEM_BYTES)}
_DIMS: Final[Json] = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_SHAPE: Final[Json] = {
    "type": "array", "maxItems": MAX_DIMS, "items": {"type": "integer", "minimum": 0, "maximum": MAX_DIM},
}  # fmt: skip
_TOOK: Final[Json] = {"type": "object", "required": ["count", "ns"], "properties": {"count": _COUNT, "ns": _COUNT}}


def _struct(required: str, optional: str = "", **properties: Json) -> Json:
    """An object; fields without a schema of their own are texts."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {name: properties.get(name, _TEXT) for name in names},
    }


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


_TENSOR: Final = _struct("name datatype shape", datatype=_DTYPE, shape=_DIMS)
_DATA: Final[Json] = {"type": "array", "items": {"type": ["number", "string", "boolean", "array", "null"]}}
_SEQUENCE: Final[Json] = {"oneOf": [{"type": "string", "maxLength": 128}, _COUNT]}
_SCHEMAS: Final[Json] = {
    "Any": {"type": "object"},
    "Error": _struct("error"),
    "Server": _struct("name version extensions", extensions=_list(_TEXT)),
    "Live": _struct("live", live=_FLAG),
    "Ready": _struct("ready", ready=_FLAG),
    "ModelReady": _struct("name ready", ready=_FLAG),
    "Model": _struct(
        "name versions platform inputs outputs", versions=_list(_TEXT), inputs=_list(_TENSOR), outputs=_list(_TENSOR)
    ),
    "ModelConfig": _struct(
        "name platform backend max_batch_size input output", max_batch_size=_COUNT,
        input=_list(_struct("name data_type dims", dims=_DIMS)),
        output=_list(_struct("name data_type dims", dims=_DIMS)),
    ),
    "Statistics": _struct(
        "model_stats",
        model_stats=_list(
            _struct(
                "name version last_inference inference_count execution_count inference_stats batch_stats",
                last_inference=_COUNT, inference_count=_COUNT, execution_count=_COUNT,
                inference_stats={"type": "object", "additionalProperties": _TOOK},
                batch_stats=_list({"type": "object"}),
            )
        ),
    ),
    "Index": _list(
        _struct(
            "name version state reason",
            state={"type": "string", "enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]},
        )
    ),
    "IndexRequest": _struct("", "ready", ready=_FLAG),
    "LoadRequest": _struct("", "parameters", parameters={"type": "object", "maxProperties": 0}),
    "UnloadRequest": _struct("", "parameters", parameters={"type": "object"}),
    "InferRequest": _struct(
        "inputs", "id parameters outputs",
        parameters=_struct(
            "", "sequence_id sequence_start sequence_end priority timeout binary_data_output", sequence_id=_SEQUENCE,
            sequence_start=_FLAG, sequence_end=_FLAG, priority=_COUNT, timeout=_COUNT, binary_data_output=_FLAG,
        ),
        inputs=_list(
            _struct(
                "name datatype shape data", "parameters", datatype=_DTYPE, shape=_SHAPE, data=_DATA,
                parameters=_struct("", "binary_data_size", binary_data_size=_COUNT),
            )
        ),
        outputs=_list(
            _struct(
                "name", "parameters",
                parameters=_struct("", "binary_data classification", binary_data=_FLAG, classification=_COUNT),
            )
        ),
    ),
    "InferResponse": _struct(
        "model_name model_version outputs", "id parameters", parameters={"type": "object"},
        outputs=_list(_struct("name datatype shape", "data", datatype=_DTYPE, shape=_SHAPE, data=_DATA)),
    ),
}  # fmt: skip
_FAULTS: Final = {
    "400": "The request is at fault: the sentence names where",
    "401": "No key, or not a good one",
    "403": "The key's role may not do this",
    "404": "No such model, version or path",
    "405": "Not by this method; Allow says which",
    "409": "It cannot be done in this state",
    "413": "The body is over the limit",
    "429": "The key asks too often; Retry-After says when to come back",
    "503": "Not now: full, away, or nobody can answer; Retry-After says when to come back",
    "504": "The deadline passed",
    "507": "The disk is full: what was asked is not kept",
}
_PARAMETERS: Final[Json] = {
    "model": {"type": "string", "description": "NAME or NAMESPACE/NAME"},
    "version": {"type": "integer", "minimum": 1},
    "region": {"type": "string"},
}
_HEADERS: Final = (
    ("Msrt-Deadline-Ms", {"type": "integer", "minimum": 1}, "Milliseconds that the answer is waited for"),
    ("Inference-Header-Content-Length", _COUNT, "Bytes of JSON before the tensors, where the body has both"),
)


def document(version: str) -> bytes:
    """The document, as JSON."""
    paths: Json = {}
    for path in PATHS:
        paths[path.path] = {
            method.lower(): _operation(path, method) for method in METHODS[path.ask] if method != "HEAD"
        }  # fmt: skip
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "msrt: Open Inference Protocol v2", "version": version or "0"},
            "paths": paths,
            "components": {
                "schemas": _SCHEMAS,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                },
            },
        }
    )


def _operation(path: Path, method: str) -> Json:
    names = [part[1:-1] for part in path.path.split("/") if part.startswith("{")]
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names
    ]
    if path.ask is Ask.INFER:
        parameters += [
            {"name": name, "in": "header", "schema": schema, "description": text} for name, schema, text in _HEADERS
        ]
    if path.ask is Ask.EVENTS:
        parameters += [{"name": name, "in": "query", "schema": _TEXT} for name in ("model", "device")]
    said: Json = {"summary": path.summary, "parameters": parameters, "responses": _responses(path)}
    if path.body and method == "POST":
        content = {"application/json": {"schema": _ref(path.body)}}
        if path.ask is Ask.INFER:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        said["requestBody"] = {"required": path.ask is Ask.INFER, "content": content}
    if NEEDS[path.ask] is not None:
        said["security"] = [{}, {"bearer": []}, {"key": []}]
    return said


def _responses(path: Path) -> Json:
    said: Json = {
        status: {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, text in _FAULTS.items()
    }
    if path.ask in (Ask.READY, Ask.MODEL_READY):
        said["503"]["content"]["application/json"]["schema"] = {"anyOf": [_ref(path.answer), _ref("Error")]}
    if not path.answer:
        return said
    content: Json = {"application/json": {"schema": _ref(path.answer)}} if "/" not in path.answer else {path.answer: {}}
    if path.ask is Ask.INFER:
        content["application/octet-stream"] = {}
    return {"200": {"description": "Done", "content": content}, **said}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
