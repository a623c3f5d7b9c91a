"""Every question but inference: health, metadata, configuration, statistics, the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import Backend, Models
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.codec import model_of, parse
from msrt.serving.oip import EXTENSIONS, BadRequest
from msrt.serving.repository import config_of, given_models, index_of, refuse_overrides, statistics_of
from msrt.trust.roles import Right

__all__ = ["LOOKS", "Look", "Looks"]


class Looks:
    """What stands behind the table."""

    def __init__(self, backend: Backend, models: Models | None, version: str) -> None:
        self._backend, self._given = backend, models
        self._server = m.ServerMetadataResponse(name="msrt", version=version, extensions=EXTENSIONS)

    @property
    def _models(self) -> Models:
        return given_models(self._given)

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
        return m.ModelConfigResponse(config=config_of(self._models.config(*model_of(asked.name, asked.version))))

    async def statistics(self, asked: Any) -> Any:
        name, version = model_of(asked.name, asked.version) if asked.name else ("", 0)
        return m.ModelStatisticsResponse(
            model_stats=[statistics_of(row) for row in self._models.statistics(name, version)]
        )

    async def index(self, asked: Any) -> Any:
        _only_one(asked)
        return m.RepositoryIndexResponse(models=index_of(self._models, ready=asked.ready))

    async def load(self, asked: Any) -> Any:
        _only_one(asked)
        refuse_overrides(asked.parameters)
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
