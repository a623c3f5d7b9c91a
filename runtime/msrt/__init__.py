"""msrt runs AI on a tree of machines: one cloud master, edge masters below it, device workers below those.

The map of the house. This package is the ground floor: it knows no tier, and the tiers (`msrt_cloud`, `msrt_edge`,
`msrt_device`) stand on it and never on each other.

    protocol   what crosses a wire: messages, bytes, the session, streams. Pure
    links      one transport a file: ZeroMQ, MQTT, memory
    hop        one step of the tree, performed: sessions, calls, streams, durable messages over a link
    trust      identities, invites, certificates, roles
    journal    desired state: a signed log, its replicas; queues that outlive a restart
    artifacts  bytes by what they are, fetched, verified, kept
    dispatch   how a master spreads work over workers. Pure
    inference  model bundles and the onnxruntime engine
    training   a user's Task, its bundle, the process it runs in
    learning   how many updates become one model. Pure numerics
    serving    Open Inference Protocol over HTTP
    telemetry  logs and metrics
    world      the seam for clock, disk, links and threads; the field's and the simulation's
    client     the library for callers
    operator   the commands for people
    demo       the whole story in one command

What a user of the package needs is here: `connect`, `Client`, `AsyncClient`, `Answer`; `Task` and `Node` for training
jobs; `errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from msrt import errors as errors
    from msrt.client import Answer as Answer
    from msrt.client import AsyncClient as AsyncClient
    from msrt.client import Client as Client
    from msrt.client import connect as connect
    from msrt.training.task import Node as Node
    from msrt.training.task import Task as Task

__all__ = ["Answer", "AsyncClient", "Client", "Node", "Task", "connect", "errors"]

_HOMES: Final = {
    "Answer": "msrt.client",
    "AsyncClient": "msrt.client",
    "Client": "msrt.client",
    "connect": "msrt.client",
    "Node": "msrt.training.task",
    "Task": "msrt.training.task",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import msrt` itself costs nothing."""
    if name == "errors":
        return import_module("msrt.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'msrt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
