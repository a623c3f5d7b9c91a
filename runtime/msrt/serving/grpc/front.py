"""A master's gRPC listener in the field: the port it had before, and a certificate that may be renewed."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from msrt.process import StateDir
from msrt.serving.access import Access
from msrt.serving.backend import Backend, Models
from msrt.serving.grpc.server import GrpcConfig, GrpcServer
from msrt.serving.tls import ServerTls
from msrt.settings import MasterConfig

__all__ = ["GrpcFront", "open_grpc"]


class GrpcFront:
    """An open gRPC front."""

    def __init__(self, server: GrpcServer, address: str, tls: ServerTls | None) -> None:
        self.server = server
        self.address = address
        """HOST:PORT with the real port: gRPC clients want no scheme."""
        self._watching = asyncio.get_running_loop().create_task(tls.watch()) if tls else None

    async def close(self) -> None:
        """Finish what is in flight, and close."""
        if self._watching is not None:
            self._watching.cancel()
        await self.server.close()


async def open_grpc(
    backend: Backend, models: Models | None, state: StateDir, config: MasterConfig, access: Access,
    tls: ServerTls | None, *, deadline_s: float,
) -> GrpcFront:  # fmt: skip
    """Listen where the config says. Raises PortInUse, InvalidAddress, InvalidConfig."""
    host, port = state.address("grpc", config.grpc)
    bounds = GrpcConfig(
        max_message=config.http_body_bytes, timeout_s=deadline_s, max_calls=config.http_connections,
        idle_s=config.http_idle_s,
    )  # fmt: skip
    server = GrpcServer(backend, models, bounds, access=access, version=version("msrt"))
    port = await server.start(host, port, tls=(lambda: tls.pair) if tls else None, plain=config.http_plain)
    state.remember("grpc", port)
    return GrpcFront(server, f"{config.advertise or host}:{port}", tls)
