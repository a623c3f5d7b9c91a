"""Which question a path asks. Pure."""

from __future__ import annotations

import enum
from typing import NamedTuple

from msrt.errors import InvalidAddress
from msrt.protocol.address import ModelName
from msrt.trust.roles import Right

__all__ = ["METHODS", "NEEDS", "Ask", "Route", "find_route"]


class Ask(enum.Enum):
    """What a path stands for."""

    LIVE = "live"
    READY = "ready"
    SERVER = "server"
    OPENAPI = "openapi"
    MODEL = "model"
    MODEL_READY = "model ready"
    INFER = "infer"
    CONFIG = "config"
    STATISTICS = "statistics"
    INDEX = "repository index"
    LOAD = "load"
    UNLOAD = "unload"
    UNSUPPORTED = "unsupported"
    EDGES = "edges"
    METRICS = "metrics"
    EVENTS = "events"


class Route(NamedTuple):
    """A path that was understood."""

    ask: Ask
    model: str = ""
    """Of what is unsupported: what it is."""
    version: int = 0


_POSTED = frozenset({Ask.INFER, Ask.INDEX, Ask.LOAD, Ask.UNLOAD})
METHODS: dict[Ask, tuple[str, ...]] = {ask: ("POST",) if ask in _POSTED else ("GET", "HEAD") for ask in Ask}
METHODS[Ask.UNSUPPORTED] = ("GET", "HEAD", "POST")
NEEDS: dict[Ask, Right | None] = {
    Ask.LIVE: None,
    Ask.READY: None,
    Ask.SERVER: Right.LOOK,
    Ask.OPENAPI: Right.LOOK,
    Ask.MODEL: Right.LOOK,
    Ask.MODEL_READY: Right.LOOK,
    Ask.INFER: Right.ASK,
    Ask.CONFIG: Right.LOOK,
    Ask.STATISTICS: Right.LOOK,
    Ask.INDEX: Right.LOOK,
    Ask.LOAD: Right.MANAGE,
    Ask.UNLOAD: Right.MANAGE,
    Ask.UNSUPPORTED: Right.LOOK,
    Ask.EDGES: Right.LOOK,
    Ask.METRICS: Right.WATCH,
    Ask.EVENTS: Right.WATCH,
}
"""What a caller must be allowed to; None: anybody may ask."""

_FIXED = {
    "/v2": Route(Ask.SERVER),
    "/v2/health/live": Route(Ask.LIVE),
    "/v2/health/ready": Route(Ask.READY),
    "/v2/openapi.json": Route(Ask.OPENAPI),
    "/v2/models/stats": Route(Ask.STATISTICS),
    "/v2/repository/index": Route(Ask.INDEX),
    "/v2/trace/setting": Route(Ask.UNSUPPORTED, "tracing by request"),
    "/v2/logging": Route(Ask.UNSUPPORTED, "changing the log by request"),
    "/metrics": Route(Ask.METRICS),
    "/msrt/v1/edges": Route(Ask.EDGES),
    "/msrt/v1/events": Route(Ask.EVENTS),
}
_ENDINGS = {"infer": Ask.INFER, "ready": Ask.MODEL_READY, "config": Ask.CONFIG, "stats": Ask.STATISTICS}
_CHANGES = {"load": Ask.LOAD, "unload": Ask.UNLOAD}
_MODELS = "/v2/models/"
_REPOSITORY = "/v2/repository/models/"
_MEMORY = {"/v2/systemsharedmemory/": "shared memory", "/v2/cudasharedmemory/": "CUDA shared memory"}
_MEMORY_ENDINGS = ("/status", "/register", "/unregister")
_TRACE = "/trace/setting"


def find_route(path: str) -> Route | None:
    """None for a path that means nothing. A model's name may have a slash: `/v2/models/NAMESPACE/NAME/infer`."""
    if len(path) > 1:
        path = path.removesuffix("/")
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    if path.startswith(_MODELS):
        return _of_model(path[len(_MODELS) :])
    if path.startswith(_REPOSITORY):
        name, _, ending = path[len(_REPOSITORY) :].rpartition("/")
        ask = _CHANGES.get(ending)
        return _named(ask, name, "") if ask is not None and "@" not in name else None
    for prefix, what in _MEMORY.items():
        if path.startswith(prefix) and path[len(prefix) - 1 :].endswith(_MEMORY_ENDINGS):
            return Route(Ask.UNSUPPORTED, what)
    return None


def _of_model(rest: str) -> Route | None:
    if rest.endswith(_TRACE):
        return Route(Ask.UNSUPPORTED, "tracing by request")
    parts = rest.split("/")
    ask = Ask.MODEL
    if len(parts) > 1 and parts[-1] in _ENDINGS:
        ask = _ENDINGS[parts.pop()]
    version = ""
    if len(parts) > 2 and parts[-2] == "versions":
        version = parts.pop()
        parts.pop()
    return _named(ask, "/".join(parts), version)


def _named(ask: Ask, name: str, version: str) -> Route | None:
    try:
        parsed = ModelName.parse(name + (f"@{version}" if version else ""))
    except InvalidAddress:
        return None
    return Route(ask, parsed.name, parsed.version)
