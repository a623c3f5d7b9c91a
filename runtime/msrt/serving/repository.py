"""What is asked of a model repository, in Triton's words: the same dicts for REST and gRPC.

`Repository` is the REST side of a master's `Models`; `config_from`, `index_row` and `settled` are what both masters
make theirs of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from msrt.errors import Unavailable
from msrt.inference.bundle import Manifest
from msrt.protocol.messages import ModelState, TensorSpec
from msrt.serving.backend import Batched, IndexRow, ModelConfig, Models, ModelStatistics, Took
from msrt.serving.oip_binary import BadRequest
from msrt.serving.routes import Ask, Route

__all__ = [
    "LOAD_S",
    "Repository",
    "config_from",
    "config_of",
    "given_models",
    "index_of",
    "index_row",
    "refuse_overrides",
    "settled",
    "statistics_of",
]

LOAD_S: Final = 30.0
"""How long a load or an unload may take until somebody has done it."""
_EVERY_S: Final = 0.05

_TIMES: Final = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip
_T = TypeVar("_T")


# --- what masters make of theirs -----------------------------------------------------------------------------


def config_from(manifest: Manifest, max_rows: int) -> ModelConfig:
    """`max_rows`: that a master joins at most, where a model lets rows be joined."""
    return ModelConfig(
        manifest.model, manifest.version, manifest.inputs, manifest.outputs,
        max_batch_size=max_rows if manifest.batchable else 0, labels=manifest.labels, sequences=bool(manifest.state),
    )  # fmt: skip


def index_row(model: str, version: int, states: Iterable[ModelState], *, rolled_out: bool) -> IndexRow:
    """How one version fares among those who could have it. `rolled_out`: it should run, or another of its model."""
    by: dict[str, ModelState] = {}
    for state in states:
        by.setdefault(state.state, state)
    coming = by.keys() - {"ready", "failed"}
    if not rolled_out:
        return IndexRow(
            model, version, "UNLOADING" if coming or "ready" in by else "UNAVAILABLE", "not rolled out here"
        )
    if "ready" in by:
        return IndexRow(model, version, "READY")
    if coming:
        return IndexRow(model, version, "LOADING", min(coming))
    return IndexRow(model, version, "UNAVAILABLE", by["failed"].error if "failed" in by else "nobody here has it")


async def settled(done: Callable[[], bool], now: Callable[[], float], within_s: float = LOAD_S) -> bool:
    """Whether it came true in that time."""
    end = now() + within_s
    while not done():
        if now() >= end:
            return False
        await asyncio.sleep(_EVERY_S)
    return True


# --- Triton's words ------------------------------------------------------------------------------------------


def config_of(config: ModelConfig) -> dict[str, Any]:
    """Dims without the batch, types by other names, labels and sequences where there are any."""
    skip = 1 if config.max_batch_size else 0

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
        return [{"name": spec.name, "data_type": _type(spec.dtype), "dims": spec.shape[skip:]} for spec in specs]

    said: dict[str, Any] = {
        "name": config.name,
        "platform": config.platform,
        "backend": config.platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [config.version]}},
        "max_batch_size": config.max_batch_size,
        "input": tensors(config.inputs),
        "output": tensors(config.outputs),
    }
    if config.max_batch_size:
        said["dynamic_batching"] = {}
    parameters = {}
    if config.labels:
        parameters["labels"] = {"string_value": "\n".join(config.labels)}
    if config.sequences:
        parameters["sequences"] = {"string_value": "true"}
    if parameters:
        said["parameters"] = parameters
    return said


def _type(dtype: str) -> str:
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"


def statistics_of(row: ModelStatistics) -> dict[str, Any]:
    """Counts and times of one version."""
    return {
        "name": row.name,
        "version": str(row.version),
        "last_inference": row.last_inference,
        "inference_count": row.inference_count,
        "execution_count": row.execution_count,
        "inference_stats": {name: _took(getattr(row, name)) for name in _TIMES},
        "batch_stats": [_batch(batch) for batch in row.batch_stats],
    }


def _batch(batch: Batched) -> dict[str, Any]:
    return {
        "batch_size": batch.batch_size,
        "compute_input": _took(batch.compute_input),
        "compute_infer": _took(batch.compute_infer),
        "compute_output": _took(batch.compute_output),
    }


def _took(took: Took) -> dict[str, int]:
    return {"count": took.count, "ns": took.ns}


def index_of(models: Models, *, ready: bool) -> list[dict[str, Any]]:
    """Every version, or only those that can answer."""
    return [
        {"name": row.name, "version": str(row.version), "state": row.state, "reason": row.reason}
        for row in models.index()
        if row.state == "READY" or not ready
    ]


def refuse_overrides(parameters: Mapping[str, Any]) -> None:
    """Raises BadRequest for a load that brings its own configuration or files: a model comes by a push."""
    if parameters:
        raise BadRequest(
            f"the parameter {min(parameters)!r} of a load is not supported", hint="push it: msrt model push"
        )


def given_models(models: Models | None) -> Models:
    """Raises Unavailable where there is no repository."""
    if models is None:
        raise Unavailable("this node keeps no model repository")
    return models


# --- REST ----------------------------------------------------------------------------------------------------


class _Index(msgspec.Struct):
    ready: bool = False


class _Change(msgspec.Struct):
    parameters: dict[str, Any] | None = None


class Repository:
    """Answers one question at a time, in bytes."""

    def __init__(self, models: Models | None) -> None:
        self._given = models

    async def answer(self, route: Route, body: bytes) -> bytes:
        """Raises BadRequest, NotFound, Unavailable."""
        models = given_models(self._given)
        said: object = {}
        match route.ask:
            case Ask.CONFIG:
                said = config_of(models.config(route.model, route.version))
            case Ask.STATISTICS:
                rows = models.statistics(route.model, route.version)
                said = {"model_stats": [statistics_of(row) for row in rows]}
            case Ask.INDEX:
                said = index_of(models, ready=_read(body, _Index).ready)
            case Ask.LOAD:
                refuse_overrides(_read(body, _Change).parameters or {})
                await models.load(route.model)
            case _:
                _read(body, _Change)
                await models.unload(route.model)
        return msgspec.json.encode(said)


def _read(body: bytes, kind: type[_T]) -> _T:
    """An empty body says nothing. Raises BadRequest."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no such question: {error}") from None
