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
    MODEL = "model"
    MODEL_READY = "model ready"
    INFER = "infer"
    EDGES = "edges"
    METRICS = "metrics"
    EVENTS = "events"


class Route(NamedTuple):
    """A path that was understood."""

    ask: Ask
    model: str = ""
    version: int = 0


METHODS = {ask: ("POST",) if ask is Ask.INFER else ("GET", "HEAD") for ask in Ask}
NEEDS: dict[Ask, Right | None] = {
    Ask.LIVE: None,
    Ask.READY: None,
    Ask.SERVER: Right.LOOK,
    Ask.MODEL: Right.LOOK,
    Ask.MODEL_READY: Right.LOOK,
    Ask.INFER: Right.ASK,
    Ask.EDGES: Right.LOOK,
    Ask.METRICS: Right.WATCH,
    Ask.EVENTS: Right.WATCH,
}
"""What a caller must be allowed to; None: anybody may ask."""

_FIXED = {
    "/v2": Route(Ask.SERVER),
    "/v2/health/live": Route(Ask.LIVE),
    "/v2/health/ready": Route(Ask.READY),
    "/metrics": Route(Ask.METRICS),
    "/msrt/v1/edges": Route(Ask.EDGES),
    "/msrt/v1/events": Route(Ask.EVENTS),
}
_ENDINGS = {"infer": Ask.INFER, "ready": Ask.MODEL_READY}
_MODELS = "/v2/models/"


def find_route(path: str) -> Route | None:
    """None for a path that means nothing. A model's name may have a slash: `/v2/models/NAMESPACE/NAME/infer`."""
    if len(path) > 1:
        path = path.removesuffix("/")
    fixed = _FIXED.get(path)
    if fixed is not None or not path.startswith(_MODELS):
        return fixed
    parts = path[len(_MODELS) :].split("/")
    ask = Ask.MODEL
    if len(parts) > 1 and parts[-1] in _ENDINGS:
        ask = _ENDINGS[parts.pop()]
    version = ""
    if len(parts) > 2 and parts[-2] == "versions":
        version = parts.pop()
        parts.pop()
    try:
        name = ModelName.parse("/".join(parts) + (f"@{version}" if version else ""))
    except InvalidAddress:
        return None
    return Route(ask, name.name, name.version)
