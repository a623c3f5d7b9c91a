"""Where edges were met last, on disk: a cloud that starts anew names those, too, that are not back yet.

Else the first edge that comes back would hear that it is alone, close its links to the others, and leave its devices
nowhere to go when it dies.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from msrt import errors
from msrt.journal.state import State
from msrt.protocol import wire
from msrt.protocol.messages import Parent
from msrt.world.world import World
from msrt_cloud.fleet import EdgeSeen

__all__ = ["Addresses"]

log = structlog.get_logger()
PREFIX: Final = "edge/"


class Addresses:
    """In the store of the node itself. One that a crash takes with it is said again when its edge comes back."""

    def __init__(self, world: World) -> None:
        self._world, self._store = world, world.disk.store("node")
        self._changed = asyncio.Event()

    def known(self, state: State) -> list[EdgeSeen]:
        """Edges of a cloud before this one, away until they come; without those that were removed from the tree."""
        found = []
        for key, value in self._store.scan(PREFIX):
            node = key.removeprefix(PREFIX)
            name, region, address = wire.unpack(value, tuple[str, str, Parent])
            if not state.is_revoked(node):
                found.append(EdgeSeen(node, name, region, address=address, since=self._world.now()))
        return found

    def keep(self, edge: EdgeSeen) -> None:
        """Where it is now; on disk soon."""
        if edge.address is None:
            return
        key, value = f"{PREFIX}{edge.node}", wire.pack((edge.name, edge.region, edge.address))
        if dict(self._store.scan(key)).get(key) != value:
            self._put(key, value)

    def forget(self, node: str) -> None:
        """It was removed from the tree."""
        self._put(f"{PREFIX}{node}", None)

    def _put(self, key: str, value: bytes | None) -> None:
        self._store.put(key, value)
        self._changed.set()

    async def run(self) -> None:
        """Commit what changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._world.offload(self._store.commit)
            except errors.DiskFull as error:
                log.warning("cloud.addresses_not_on_disk", error=error.text)
