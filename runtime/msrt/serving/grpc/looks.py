"""Every question but inference: health, metadata, configuration, statistics, the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from msrt.errors import Unavailable
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import Backend, ModelConfig, Models, ModelStatistics, Took
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.codec import model_of, parse
from msrt.serving.oip import BadRequest
from msrt.trust.roles import Right

__all__ = ["LOOKS", "Look", "Looks"]

EXTENSIONS: Final = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "schedule_policy",
    "sequence", "statistics",
)  # fmt: skip
_TIMES: Final = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip


class Looks:
    """What stands behind the table."""

    def __init__(self, backend: Backend, models: Models | None, version: str) -> None:
        self._backend, self._given = backend, models
        self._server = m.ServerMetadataResponse(name="msrt", version=version, extensions=EXTENSIONS)

    @property
    def _models(self) -> Models:
        if self._given is None:
            raise Unavailable("this node keeps no model repository")
        return self._given

    async def live(self, _asked: Any) -> Any:
        return m.ServerLiveResponse(live=True)

    async def ready(self, _asked: Any) -> Any:
        return m.ServerReadyResponse(ready=self._backend.ready())

    async def server(self, _asked: Any) -> Any:
        return self._server

    async def model_ready(self, asked: Any) -> Any:
        return m.ModelReadyResponse(ready=self._backend.ready(*model_of(asked.name, asked.version)))

    async def metadata(self, asked: Any) -> Any:
        info = self._backend.metadata(*model_of(asked.name, asked.version))
        return m.ModelMetadataResponse(
            name=info.name, versions=[str(version) for version in info.versions], platform=info.platform,
            inputs=_tensors(info.inputs), outputs=_tensors(info.outputs),
        )  # fmt: skip

    async def config(self, asked: Any) -> Any:
        return m.ModelConfigResponse(config=_config(self._models.config(*model_of(asked.name, asked.version))))

    async def statistics(self, asked: Any) -> Any:
        name, version = model_of(asked.name, asked.version) if asked.name else ("", 0)
        return m.ModelStatisticsResponse(model_stats=[_row(row) for row in self._models.statistics(name, version)])

    async def index(self, asked: Any) -> Any:
        _only_one(asked)
        rows = [
            {"name": row.name, "version": str(row.version), "state": row.state, "reason": row.reason}
            for row in self._models.index()
            if row.state == "READY" or not asked.ready
        ]
        return m.RepositoryIndexResponse(models=rows)

    async def load(self, asked: Any) -> Any:
        _only_one(asked)
        if asked.parameters:
            raise BadRequest(
                f"the parameter {min(asked.parameters)!r} of a load is not supported", hint="push it: msrt model push"
            )
        await self._models.load(*model_of(asked.model_name, ""))
        return m.Empty()

    async def unload(self, asked: Any) -> Any:
        _only_one(asked)
        await self._models.unload(model_of(asked.model_name, "")[0])
        return m.Empty()


class Look(NamedTuple):
    """How a method is answered."""

    right: Right | None
    """What its caller must be allowed to; None: anybody may ask."""
    request: Any
    answer: Callable[[Looks, Any], Awaitable[Any]]

    async def ask(self, looks: Looks, data: bytes) -> bytes:
        """Raises MsrtErrors."""
        answer: bytes = (await self.answer(looks, parse(self.request, data))).SerializeToString()
        return answer


LOOKS: Final = {
    "ServerLive": Look(None, m.Empty, Looks.live),
    "ServerReady": Look(None, m.Empty, Looks.ready),
    "ServerMetadata": Look(Right.LOOK, m.Empty, Looks.server),
    "ModelReady": Look(Right.LOOK, m.ModelRequest, Looks.model_ready),
    "ModelMetadata": Look(Right.LOOK, m.ModelRequest, Looks.metadata),
    "ModelConfig": Look(Right.LOOK, m.ModelRequest, Looks.config),
    "ModelStatistics": Look(Right.LOOK, m.ModelRequest, Looks.statistics),
    "RepositoryIndex": Look(Right.LOOK, m.RepositoryIndexRequest, Looks.index),
    "RepositoryModelLoad": Look(Right.MANAGE, m.RepositoryModelRequest, Looks.load),
    "RepositoryModelUnload": Look(Right.MANAGE, m.RepositoryModelRequest, Looks.unload),
}


def _only_one(asked: Any) -> None:
    if asked.repository_name:
        raise BadRequest("a repository's name is not supported: the tree has one repository")


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
    return [{"name": spec.name, "datatype": spec.dtype, "shape": spec.shape} for spec in specs]


def _config(config: ModelConfig) -> dict[str, object]:
    """In Triton's terms: dims without the batch, types by other names."""
    skip = 1 if config.max_batch_size else 0

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "data_type": _type(spec.dtype), "dims": spec.shape[skip:]} for spec in specs]

    return {
        "name": config.name,
        "platform": config.platform,
        "backend": config.platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [config.version]}},
        "max_batch_size": config.max_batch_size,
        "input": tensors(config.inputs),
        "output": tensors(config.outputs),
    }


def _type(dtype: str) -> str:
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"


def _took(took: Took) -> dict[str, int]:
    return {"count": took.count, "ns": took.ns}


def _row(row: ModelStatistics) -> dict[str, object]:
    return {
        "name": row.name,
        "version": str(row.version),
        "last_inference": row.last_inference,
        "inference_count": row.inference_count,
        "execution_count": row.execution_count,
        "inference_stats": {name: _took(getattr(row, name)) for name in _TIMES},
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                "compute_input": _took(batch.compute_input),
                "compute_infer": _took(batch.compute_infer),
                "compute_output": _took(batch.compute_output),
            }
            for batch in row.batch_stats
        ],
    }
