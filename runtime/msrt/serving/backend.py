"""The seams between the fronts (REST, gRPC) and the master behind them: `Backend` asks models, `Models` keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from msrt.buffers import Buffer
from msrt.protocol.messages import Event, Mark, Parent, TensorSpec

__all__ = [
    "Backend",
    "Batched",
    "Buffer",
    "IndexRow",
    "InferAnswer",
    "InferRequest",
    "ModelConfig",
    "ModelInfo",
    "ModelStatistics",
    "Models",
    "Took",
]


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
    marks: Mapping[str, Mark] = MappingProxyType({})
    """What else the caller should know: they become parameters of the answer."""


class ModelInfo(msgspec.Struct, frozen=True):
    """What `GET /v2/models/N` says. Dimensions that are free are -1."""

    name: str
    versions: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str = "onnxruntime_onnx"
    labels: tuple[str, ...] = ()
    """Names of the classes of the first output, if it has classes."""


class IndexRow(msgspec.Struct, frozen=True):
    """One version of one model in the repository: what `POST /v2/repository/index` lists."""

    name: str
    version: int
    state: str
    """READY, LOADING, UNLOADING or UNAVAILABLE, as Triton names them."""
    reason: str = ""
    """Why it is not ready."""


class ModelConfig(msgspec.Struct, frozen=True):
    """What `GET /v2/models/N/config` says, in the field's own terms; both fronts turn it into Triton's shape."""

    name: str
    version: int
    """That it is said of."""
    inputs: tuple[TensorSpec, ...]
    """Whole shapes: with axis 0, also where that is the batch."""
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    """Rows that are joined at most; 0: axis 0 is no batch. Where it is not 0, Triton's dims leave axis 0 out."""
    labels: tuple[str, ...] = ()
    """Of the first output."""
    sequences: bool = False
    """It keeps state between the requests of a sequence."""
    platform: str = "onnxruntime_onnx"


class Took(msgspec.Struct):
    """How often, and how long together."""

    count: int = 0
    ns: int = 0


class Batched(msgspec.Struct):
    """What batches of one size cost."""

    batch_size: int
    compute_input: Took
    compute_infer: Took
    compute_output: Took


class ModelStatistics(msgspec.Struct):
    """Counts since this node started, of one version; the names are Triton's (ModelStatistics of its gRPC service)."""

    name: str
    version: int
    last_inference: int = 0
    """Milliseconds since 1970."""
    inference_count: int = 0
    """Rows."""
    execution_count: int = 0
    """Batches."""
    success: Took = msgspec.field(default_factory=Took)
    fail: Took = msgspec.field(default_factory=Took)
    queue: Took = msgspec.field(default_factory=Took)
    """All but computing: waiting here and on the device, and the way between. Per request, as the next three."""
    compute_input: Took = msgspec.field(default_factory=Took)
    compute_infer: Took = msgspec.field(default_factory=Took)
    compute_output: Took = msgspec.field(default_factory=Took)
    cache_hit: Took = msgspec.field(default_factory=Took)
    cache_miss: Took = msgspec.field(default_factory=Took)
    batch_stats: Sequence[Batched] = ()


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


class Models(Protocol):
    """What a master offers of its model repository. A tree's repository is the cloud's registry: a model is loaded by a
    rollout to this node's region (the whole tree, on the cloud), and unloaded by its withdrawal there."""

    def index(self) -> Sequence[IndexRow]:
        """Every version that is known here, by name and version."""

    def config(self, model: str, version: int = 0) -> ModelConfig:
        """Raises NotFound, Unavailable."""

    def statistics(self, model: str = "", version: int = 0) -> Sequence[ModelStatistics]:
        """Of all versions, all of a model, or one. Raises NotFound."""

    def load(self, model: str, version: int = 0) -> Awaitable[None]:
        """Returns when it can answer. 0: the newest version. Operators only: the front has checked that.
        Raises NotFound, Unavailable (the cloud is away, nobody loaded it in time)."""

    def unload(self, model: str) -> Awaitable[None]:
        """Returns when it answers no more. Operators only. Raises NotFound, Unavailable."""
