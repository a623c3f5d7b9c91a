"""A small tree that does something: children ping their parent, count the answers on disk, say so in the log."""

from __future__ import annotations

import asyncio

import structlog

from msrt.errors import DiskFull
from msrt.links.link import PARENT, Credentials

log = structlog.get_logger()


class Parent:
    """Answers pings, remembers on disk who pinged how far."""

    def __init__(self, world, secret):
        self.world, self.store = world, world.disk.store("p")
        self.link = world.links.listen("mem://", Credentials(secret_key=secret), lambda _key: True)
        self.seen = {}

    async def run(self):
        await self.link.start(self)
        while True:
            await asyncio.sleep(1)
            try:
                await self.world.offload(self.store.commit)
            except DiskFull as error:
                log.warning("parent.disk_full", error=error)

    def received(self, route, principal, frames):
        self.seen[principal] = self.seen.get(principal, 0) + 1
        self.store.put(principal.hex(), bytes(frames[0]))
        self.link.send(route, [b"pong", frames[0]])

    def gone(self, route, error):
        log.info("parent.gone", route=route, error=error)

    def writable(self):
        pass


class Child:
    """Pings twice a second."""

    def __init__(self, world, config):
        parent, key = config
        self.world, self.store = world, world.disk.store("c")
        self.secret = self.world.random.randbytes(32)
        self.link = world.links.dial(f"mem://{parent}", Credentials(secret_key=self.secret, server_key=key))
        self.pongs = 0

    async def run(self):
        await self.link.start(self)
        while True:
            await asyncio.sleep(0.4 + self.world.random.random() * 0.2)
            offset = self.store.append("pings", b"")
            try:
                await self.world.offload(self.store.commit)
            except DiskFull:
                continue
            self.link.send(PARENT, [b"%d" % offset])

    def received(self, _route, _principal, frames):
        self.pongs += 1
        log.info("child.pong", ping=bytes(frames[1]).decode(), wall=self.world.wall())

    def gone(self, _route, error):
        log.info("child.gone", error=error)

    def writable(self):
        log.info("child.connected")
