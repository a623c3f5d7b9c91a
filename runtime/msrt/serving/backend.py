"""The seam between the HTTP front and the master behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from msrt.protocol.messages import Event, Parent, TensorSpec

__all__ = ["Backend", "Buffer", "InferAnswer", "InferRequest", "ModelInfo"]

Buffer = bytes | bytearray | memoryview


class InferRequest(msgspec.Struct, eq=False):
    """A question as it came in: tensors already raw, their byte counts checked against their shapes."""

    model: str
    inputs: tuple[TensorSpec, ...]
    frames: tuple[Buffer, ...]
    timeout_s: float
    """What is left."""
    version: int = 0
    """0: what is rolled out."""
    outputs: tuple[str, ...] = ()
    """Names wanted; empty means all."""
    trace: str = ""
    """W3C traceparent, empty without."""
    priority: int = 0
    """1 urgent, 0 normal, -1 background."""
    sequence: str = ""
    """Which stateful conversation it belongs to, empty for none."""
    sequence_start: bool = False
    sequence_end: bool = False
    hops: int = 0
    """Masters that passed it on because they were full."""


class InferAnswer(msgspec.Struct, eq=False):
    """The answer to one InferRequest."""

    version: int
    variant: str
    device: str
    outputs: tuple[TensorSpec, ...]
    frames: Sequence[Buffer]
    marks: Mapping[str, object] = MappingProxyType({})
    """What else the caller should know: they become parameters of the answer."""


class ModelInfo(msgspec.Struct, frozen=True):
    """What `GET /v2/models/N` says. Dimensions that are free are -1."""

    name: str
    versions: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str = "onnxruntime_onnx"


class Backend(Protocol):
    """What a master offers to its HTTP front. Errors are MsrtErrors and become a status by `oip.status_of`."""

    def infer(self, request: InferRequest) -> Awaitable[InferAnswer]:
        """A Future is best: awaiting it takes no task of its own. Raises InvalidTensor, NotFound, Overloaded,
        Unavailable, DeadlineExceeded."""

    def metadata(self, model: str, version: int = 0) -> ModelInfo:
        """Raises NotFound."""

    def ready(self, model: str = "", version: int = 0) -> bool:
        """Whether this model version, or with no model this node, can answer now. Raises NotFound."""

    def edges(self) -> Sequence[Parent]:
        """Where else clients may go, this node first."""

    def metrics(self) -> bytes:
        """Prometheus text."""

    def events(self, model: str, device: str) -> AsyncIterator[Event]:
        """Events from now on, of one model or device if named; `aclose` ends it."""
