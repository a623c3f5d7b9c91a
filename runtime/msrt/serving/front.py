"""A master's HTTP listener in the field: the port it had before, the address it may be reached at."""

from __future__ import annotations

from importlib.metadata import version

from msrt.process import StateDir
from msrt.serving.app import App, AppConfig
from msrt.serving.backend import Backend
from msrt.serving.http import HttpServer
from msrt.settings import MasterConfig

__all__ = ["Front", "open_front"]


class Front:
    """An open HTTP front."""

    def __init__(self, server: HttpServer, address: str) -> None:
        self._server = server
        self.address = address
        """http://HOST:PORT with the real port."""

    async def close(self) -> None:
        """Finish what is in flight, and close."""
        await self._server.close()


async def open_front(backend: Backend, state: StateDir, config: MasterConfig, *, deadline_s: float = 10.0) -> Front:
    """Listen as the config says, else on a free loopback port that is kept. `deadline_s`: of a request that names none.

    Raises PortInUse, InvalidConfig.
    """
    host, port = state.address("http", config.http)
    bounds = AppConfig(max_body=config.http_body_bytes, timeout_s=deadline_s)
    app = App(backend, bounds, version=version("msrt"))
    server = HttpServer(app, host, port, connections=config.http_connections, idle_s=config.http_idle_s)
    port = await server.start()
    state.remember("http", port)
    return Front(server, f"http://{config.advertise or host}:{port}")
