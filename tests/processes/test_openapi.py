"""The REST front under requests that its own document describes, and under such as it forbids: a real edge with a real
device. Nothing that a caller can say is a fault of ours."""

from __future__ import annotations

import copy

import pytest
import requests
import schemathesis.specs.openapi.schemas  # noqa: F401 - here, for Python 3.11 may fail to parse it amid other threads
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto
from schemathesis import GenerationMode
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from msrt.serving.openapi import PATHS
from msrt.serving.routes import METHODS
from tests.bench.tree import Tree, until
from tests.processes.test_triton_grpc import echo

ENDLESS = "/msrt/v1/events"
HEADERS = ("Inference-Header-Content-Length", "Msrt-Deadline-Ms")
MODEL = {"enum": ["strings", "halves", "default/strings", "nobody"]}
VERSION = {"enum": [1, 9]}


def struct(required="", **properties):
    """An object of these, and no others."""
    return {
        "type": "object", "required": required.split(), "properties": properties, "additionalProperties": False,
    }  # fmt: skip


def tensor(dtype, shape, kind, count, **bounds):
    return struct(
        "name datatype shape data", name={"const": "x"}, datatype={"const": dtype}, shape={"const": shape},
        data={"type": "array", "minItems": count, "maxItems": count, "items": {"type": kind, **bounds}},
    )  # fmt: skip


FLAG = {"type": "boolean"}
TENSORS = [
    tensor("BYTES", [1, 3], "string", 3),
    tensor("FP16", [2, 3], "integer", 6, minimum=-9, maximum=9),
    tensor("FP16", [3], "number", 3),
]
NEARLY = struct(
    "inputs",
    id={"type": "string"},
    inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": {"anyOf": TENSORS}},
    outputs={
        "type": "array", "maxItems": 2,
        "items": struct(
            "name", name={"enum": ["y", "z"]},
            parameters=struct(binary_data=FLAG, classification={"type": "integer", "minimum": 0, "maximum": 5}),
        ),
    },
    parameters=struct(
        sequence_id={"enum": [0, 1, "a"]}, sequence_start=FLAG, priority={"enum": [0, 1, 9]},
        timeout={"enum": [0, 1, 5000000]}, binary_data_output=FLAG,
    ),
)  # fmt: skip
"""What comes near to a request that these models take: it gets further than one of any kind."""


@pytest.fixture(scope="module")
def edge():
    """An edge with a device and two models; it must be as well at the end as at the start."""
    with Tree() as tree:
        process = tree.edge("e1", "north", "--set", "http_body_bytes=100000")
        tree.device("d1", "north")
        for name, dtype in (("strings", TensorProto.STRING), ("halves", TensorProto.FLOAT16)):
            path = tree.path / f"{name}.onnx"
            path.write_bytes(echo(dtype))
            tree.cli("model", "push", str(path), "--name", name)
            tree.cli("model", "rollout", name, "--window", "1")
            url = f"{process.field('http')}/v2/models/{name}/ready"
            until(f"{name} is ready", lambda url=url: requests.get(url, timeout=5).ok, 30)
        yield process.field("http")
        assert requests.get(f"{process.field('http')}/v2/health/ready", timeout=5).ok
        for name, one in tree.procs.items():
            assert one.popen.poll() is None, name
            assert "Traceback" not in one.log.read_text(), name


@pytest.fixture(scope="module")
def apis(edge):
    """The document that the edge serves, with the names that it knows, for not all is to be 404; and the same with
    requests that come near to what its models take."""
    said = requests.get(f"{edge}/v2/openapi.json", timeout=5).json()
    operations = [operation for methods in said["paths"].values() for operation in methods.values()]
    for parameter in (parameter for operation in operations for parameter in operation["parameters"]):
        parameter["schema"] = {"model": MODEL, "version": VERSION}.get(parameter["name"], parameter["schema"])
    near = copy.deepcopy(said)
    for path in (path for path in near["paths"] if path.endswith("/infer")):
        operation = near["paths"][path]["post"]
        operation["requestBody"]["content"] = {"application/json": {"schema": NEARLY}}
        operation["parameters"] = [p for p in operation["parameters"] if p["name"] not in HEADERS]
    made = {}
    for name, document in (("any", said), ("near", near)):
        made[name] = from_dict(document)
        made[name].config.update(base_url=edge)
    return made


OPERATIONS = [
    (path.path, method, kind)
    for path in PATHS
    for method in METHODS[path.ask]
    for kind in ("near", "any", "wrong")
    if method != "HEAD" and path.path != ENDLESS and (kind != "near" or path.body == "InferRequest")
    if kind != "wrong" or path.body not in ("", "Any") or "{model}" in path.path  # elsewhere nothing is
]  # fmt: skip


@pytest.mark.parametrize(("path", "method", "kind"), OPERATIONS)
def test_nothing_that_is_asked_is_a_fault_of_ours(apis, path, method, kind):
    """No 5xx but 503, and 504 for who named a deadline; what is answered is what the document says."""
    operation = apis["near" if kind == "near" else "any"][path][method]
    mode = GenerationMode.NEGATIVE if kind == "wrong" else GenerationMode.POSITIVE

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=60 if path.endswith("/infer") else 15, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case):
        response = case.call(timeout=60)
        named = "msrt-deadline-ms" in {name.lower() for name in case.headers or {}} or "timeout" in str(case.body)
        allowed = {503, 504} if named else {503}
        assert response.status_code < 500 or response.status_code in allowed, response.text
        case.validate_response(
            response, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
        )

    ask()
