"""The messages of `oip.proto` as classes, in a pool of our own.

protobuf keeps one name space a process, and refuses a second message of one name in it. Other people's generated
clients of the same protocol claim theirs there; ours live beside it, whatever was imported first.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from msrt.serving.grpc.schema import DESCRIPTOR_SET

__all__ = [
    "Empty",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataResponse",
    "ModelReadyResponse",
    "ModelRequest",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryModelRequest",
    "ServerLiveResponse",
    "ServerMetadataResponse",
    "ServerReadyResponse",
]

_pool: Final = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"msrt.oip.{name}"))


Empty: Final = _message("Empty")
ModelConfigResponse: Final = _message("ModelConfigResponse")
ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ModelRequest: Final = _message("ModelRequest")
ModelStatisticsResponse: Final = _message("ModelStatisticsResponse")
ModelStreamInferResponse: Final = _message("ModelStreamInferResponse")
RepositoryIndexRequest: Final = _message("RepositoryIndexRequest")
RepositoryIndexResponse: Final = _message("RepositoryIndexResponse")
RepositoryModelRequest: Final = _message("RepositoryModelRequest")
ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ServerReadyResponse: Final = _message("ServerReadyResponse")
