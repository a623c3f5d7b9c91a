"""The messages: made of the .proto, of the protocol's shape, and at peace with other people's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.descriptor import FieldDescriptor

from msrt.serving.grpc import generate, messages


def python(code):
    """In a process of its own, warnings being errors."""
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_the_schema_is_what_the_proto_says():
    """Who changed oip.proto has run `make protobuf`."""
    assert generate.SCHEMA_FILE.read_text() == generate.generate()


@pytest.mark.parametrize(
    "order",
    [
        "msrt.serving.grpc.messages, tritonclient.grpc, tritonclient.grpc.aio",
        "tritonclient.grpc, tritonclient.grpc.aio, msrt.serving.grpc.messages",
        "msrt.serving.grpc.server, tritonclient.grpc.service_pb2_grpc",
    ],
)
def test_our_messages_live_beside_the_public_clients(order):
    """In one process, whoever came first."""
    done = python(f"import {order}")
    assert done.returncode == 0, done.stderr


def test_who_does_not_serve_grpc_does_not_pay_for_it():
    """Neither the fronts nor the package import grpc or protobuf."""
    done = python(
        "import sys, msrt.serving.front, msrt.serving.grpc\n"
        "assert not {'grpc', 'google.protobuf'} & set(sys.modules), 'imported'"
    )
    assert done.returncode == 0, done.stderr


PUBLIC = {
    "ServerLiveResponse": "", "ServerReadyResponse": "", "ServerMetadataResponse": "", "ModelReadyResponse": "",
    "ModelMetadataResponse": "", "ModelInferRequest": "", "ModelInferResponse": "", "ModelStreamInferResponse": "",
    "RepositoryIndexRequest": "", "RepositoryIndexResponse": "", "ModelStatisticsResponse": "",
    "ModelConfigResponse": "", "RepositoryModelRequest": "RepositoryModelLoadRequest",
}  # fmt: skip
ALSO = {"ModelRequest": ("ModelReadyRequest", "ModelMetadataRequest", "ModelConfigRequest", "ModelStatisticsRequest")}


def shape(field):
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED
    return field.number, field.type, repeated, field.containing_oneof.name if field.containing_oneof else ""


def compare(ours, theirs):
    """Every field of ours is theirs: name, number, type. They may have more."""
    if "oneof" not in ours.name:
        for name, field in ours.fields_by_name.items():
            other = theirs.fields_by_name[name]
            assert shape(field)[:3] == shape(other)[:3], f"{ours.full_name}.{name}"
            if field.message_type is not None:
                compare(field.message_type, other.message_type)
            if field.enum_type is not None:
                assert field.enum_type.values_by_name.keys() == other.enum_type.values_by_name.keys()


@pytest.mark.parametrize("name", [*PUBLIC, *ALSO])
def test_each_message_has_the_shape_of_the_public_one(name):
    """Names, numbers and types are those that the public clients were generated with."""
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - claims its names in protobuf's own pool

    for other in ALSO.get(name) or [PUBLIC[name] or name]:
        compare(getattr(messages, name).DESCRIPTOR, getattr(service_pb2, other).DESCRIPTOR)
