"""A child that fled to another region goes home: when a parent of its own is there again, and the moment is good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.link import Credentials, Route
from msrt.protocol.messages import Parent
from msrt.world.world import World

__all__ = ["Endpoint", "Home", "Homing"]

log = structlog.get_logger()
REACH_S: Final = 2.0
"""How long a connection to a parent at home may take."""
SETTLE_S: Final = 0.5
"""So long it must hold: over MQTT a broker may answer whose master is away, which is said after the connection."""
QUIET_S: Final = 0.2
"""Between two looks whether the moment is good."""
PATIENCE_S: Final = 600.0
"""One that is never quiet goes after so long all the same: its parent gives its work to others."""
STEADY_S: Final = 300.0
"""Who is away again sooner than this after it went home waits twice as long the next time."""
LONGEST_S: Final = 600.0

Endpoint = Callable[[Parent], tuple[str, Credentials] | None]
"""The URL and credentials by which this node reaches a parent, None if it cannot."""


@dataclass(frozen=True)
class Home:
    """Where a child belongs."""

    region: str = ""
    """Empty: nowhere in particular."""
    every_s: float = 0.0
    """About how often it is looked for from elsewhere; 0: never."""
    quiet: Callable[[], bool] = lambda: True
    """Whether leaving now would break nothing."""


class Homing:
    """When to leave a parent of another region."""

    def __init__(self, world: World, endpoint: Endpoint, home: Home) -> None:
        self._world, self._endpoint, self._home = world, endpoint, home
        self._pause_s = home.every_s
        self._went_at: float | None = None

    def away(self, here: Parent) -> bool:
        """Is this parent one to leave?"""
        return bool(self._home.region and self._home.every_s) and here.region != self._home.region

    async def way(self, here: Parent, parents: Callable[[], Sequence[Parent]]) -> Parent:
        """The parent to go to from `here`, when it is time. `parents`: those known now, best first."""
        again = self._went_at is not None and self._world.now() - self._went_at < STEADY_S
        self._pause_s = min(2 * self._pause_s, max(LONGEST_S, self._home.every_s)) if again else self._home.every_s
        while True:
            # All children of a lost parent flee at once, and must not come back at once.
            await asyncio.sleep(self._pause_s * (0.5 + self._world.random.random()))
            for parent in [one for one in parents() if one.region == self._home.region]:
                if await self._there(parent, here):
                    waited = await self._good_moment()
                    if not waited or await self._there(parent, here):
                        self._went_at = self._world.now()
                        return parent

    async def _there(self, parent: Parent, here: Parent) -> bool:
        """Does it take a connection? The session with `here` goes on meanwhile."""
        found, present = self._endpoint(parent), self._endpoint(here)
        if found is None or (present is not None and found[0] == present[0]):
            return False  # at a broker that both share, a second connection of ours would end the first
        look = _Look()
        try:
            link = self._world.links.dial(*found)
            try:
                await link.start(look)
                async with asyncio.timeout(REACH_S):
                    await look.connected.wait()
                await asyncio.sleep(SETTLE_S)
            finally:
                await link.close()
        except (TimeoutError, errors.MsrtError) as error:
            log.debug("hop.home_away", parent=parent.node, error=errors.words_of(error))
            return False
        return look.connected.is_set()

    async def _good_moment(self) -> bool:
        """True if it had to be waited for."""
        began = self._world.now()
        until = began + PATIENCE_S
        while not self._home.quiet() and self._world.now() < until:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(QUIET_S)
        return self._world.now() > began


class _Look:
    """A link's sink that only wants to know whether somebody is there."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()

    def received(self, _route: Route, _principal: bytes, _frames: list[Buffer]) -> None:
        """Nobody was greeted, so nothing is expected."""

    def gone(self, _route: Route, _error: Exception | None) -> None:
        self.connected.clear()

    def writable(self) -> None:
        self.connected.set()
