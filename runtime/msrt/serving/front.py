"""A master's listeners in the field, HTTP and perhaps gRPC: the ports they had before, who may come in, and where they
may be reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from msrt.process import StateDir
from msrt.serving.access import Access
from msrt.serving.app import App, AppConfig
from msrt.serving.backend import Backend, Models
from msrt.serving.http import HttpServer
from msrt.serving.tls import ServerTls
from msrt.settings import MasterConfig, is_loopback
from msrt.telemetry.metrics import Metrics
from msrt.trust.api_keys import KeyBook
from msrt.world.world import World

if TYPE_CHECKING:
    from msrt.serving.grpc.front import GrpcFront

__all__ = ["Front", "open_front"]


class Front:
    """What is open."""

    def __init__(self, server: HttpServer, address: str, tls: ServerTls | None, grpc: GrpcFront | None = None) -> None:
        self._server, self._grpc = server, grpc
        self.address = address
        """http://HOST:PORT or https://HOST:PORT with the real port."""
        self.fingerprint = tls.fingerprint if tls else ""
        """Of a certificate that signs itself."""
        self._watching = asyncio.get_running_loop().create_task(tls.watch()) if tls else None

    def lines(self) -> list[str]:
        """What a node prints at its start."""
        pin = [f"  sha256     {self.fingerprint}"] if self.fingerprint else []
        grpc = [f"  grpc       {self._grpc.address}"] if self._grpc else []
        return [f"  http       {self.address}", *pin, *grpc]

    async def close(self) -> None:
        """Finish what is in flight, and close."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(self._server.close(), *([self._grpc.close()] if self._grpc else []))


async def open_front(
    backend: Backend, state: StateDir, config: MasterConfig, world: World, keys: Callable[[], KeyBook], *,
    models: Models | None = None, deadline_s: float = 10.0, metrics: Metrics | None = None,
) -> Front:  # fmt: skip
    """Listen as the config says, else on a free loopback port that is kept. `keys`: those in force, asked anew for each
    request that shows one. `models`: the repository, if there is one. `deadline_s`: of a request that names none.

    Raises PortInUse, InvalidAddress, InvalidConfig.
    """
    host, port = state.address("http", config.http)
    bounds = AppConfig(max_body=config.http_body_bytes, timeout_s=deadline_s)
    now = asyncio.get_running_loop().time
    access = Access(keys, now=now, wall=world.wall, trusts_loopback=not config.http_plain)
    tls = server_tls(config, state, host, world.wall())
    app = App(
        backend, bounds, version=version("msrt"), access=access, models=models, offload=world.offload
    )  # fmt: skip
    server = HttpServer(
        app, host, port, connections=config.http_connections, idle_s=config.http_idle_s,
        tls=tls.context if tls else None, plain=config.http_plain,
    )  # fmt: skip
    port = await server.start()
    state.remember("http", port)
    address = f"http{'s' if tls else ''}://{config.advertise or host}:{port}"
    if not config.grpc:
        _watch(metrics, app)
        return Front(server, address, tls)
    try:
        from msrt.serving.grpc.front import open_grpc  # noqa: PLC0415 - grpc takes memory: only who asked for it pays

        shown = server_tls(config, state, state.address("grpc", config.grpc)[0], world.wall())
        grpc = await open_grpc(backend, models, state, config, access, shown, deadline_s=deadline_s)
    except BaseException:
        await server.close()
        raise
    _watch(metrics, app, grpc)
    return Front(server, address, tls, grpc)


def _watch(metrics: Metrics | None, app: App, grpc: GrpcFront | None = None) -> None:
    """What both fronts answer, by status, and what they are at work on."""
    if metrics is None:
        return

    def responses() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {("http", str(status)): n for status, n in app.responses.items()}
        if grpc is not None:
            found |= {("grpc", status): n for status, n in grpc.server.responses.items()}
        return found

    def open_now() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {("http", "calls"): app.in_flight, ("http", "streams"): app.streams}
        if grpc is not None:
            found |= {("grpc", "calls"): grpc.server.in_flight, ("grpc", "streams"): grpc.server.streams}
        return found

    metrics.tally("front_responses_total", "Answers of the fronts, by status.", ("front", "status"), responses)
    metrics.gauges("front_open", "Calls at work, and callers that stream.", ("front", "what"), open_now)


def server_tls(config: MasterConfig, state: StateDir, host: str, wall: float) -> ServerTls | None:
    """What a listener on `host` shows; None where it speaks in the clear. Raises InvalidConfig."""
    if config.tls_cert:
        return ServerTls(Path(config.tls_cert), Path(config.tls_key))
    if config.http_plain or is_loopback(f"{host}:0"):
        return None
    hosts = dict.fromkeys(name for name in (config.advertise, host, socket.gethostname(), "localhost") if name)
    return ServerTls.keep(state.path, hosts, wall)
