"""Edges that clients of a test ask over HTTP: the real front on real sockets, a made-up master behind each."""

from __future__ import annotations

import asyncio

import numpy as np

from msrt.client import AsyncClient
from msrt.serving.app import App, AppConfig
from msrt.serving.http import HttpServer
from tests.runtime.hop.tree import until
from tests.runtime.serving.caller import Master

__all__ = ["ROWS", "Fronts", "play"]

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Fronts:
    """So many servers, each with a master behind it."""

    def __init__(self, count, access=None, **config):
        self.masters = [Master() for _ in range(count)]
        for master in self.masters:
            master.edges = list
        self.servers = [
            HttpServer(App(master, AppConfig(**config), access=access), "127.0.0.1", 0) for master in self.masters
        ]

    async def __aenter__(self):
        self.urls = [f"http://127.0.0.1:{await server.start()}" for server in self.servers]
        return self

    async def __aexit__(self, *_):
        for server in self.servers:
            await server.close()


def play(scenario, count=1, config=None, *, json=False, **options):
    """Run `scenario(fronts, client)`. json: as if the servers had no binary tensors."""

    async def main():
        async with Fronts(count, **(config or {})) as fronts, AsyncClient(fronts.urls, **options) as client:
            await until(lambda: all(front.live for front in client._core.fronts))
            for front in client._core.fronts:
                front._binary = front._binary and not json
            await asyncio.wait_for(scenario(fronts, client), 20)

    asyncio.run(main())
