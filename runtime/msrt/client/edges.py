"""Which edges a client keeps connected: one is asked, another takes over when it dies, the nearest are looked for."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Final

import structlog

from msrt import errors
from msrt.client.core import NEARER, Core
from msrt.client.front import Front
from msrt.client.http import HttpFront
from msrt.client.known import Known, ask_cloud
from msrt.client.peers import Member, PeerFront
from msrt.client.tls import Trust

__all__ = ["Edges"]

log = structlog.get_logger()
WARM: Final = 2
"""Edges kept connected: one is asked, the other takes over without a handshake."""
REFRESH_S: Final = 30.0
LOOK_S: Final = 0.25
LOST_S: Final = 2.0
"""Without any edge for so long, more of them are tried, and the cloud is asked for new ones."""
CLOUD_S: Final = 3.0
SURVEY_S: Final = 2.0
"""How long an edge that is only looked at may take to answer."""


class Edges:
    """Tends the fronts of a core."""

    def __init__(self, core: Core, urls: Sequence[str], member: Member | None, *, key: str, trust: Trust) -> None:
        self._core, self._member, self._key, self._trust = core, member, key, trust
        self.known = Known(urls, member)
        self._tasks: dict[Front, asyncio.Task[None]] = {}
        self._tending: asyncio.Task[None] | None = None
        self._seen: dict[str, float] = {}
        """URLs that were surveyed, and when."""

    # --- life

    async def open(self) -> None:
        """Find the edges and begin to connect. Raises NotFound (no edge there), Disconnected (the cloud must be asked,
        and is away), Unavailable."""
        known = self.known
        if self._member is not None and (known.unknown or not known.urls):
            await self._ask_cloud(self._member)
            if unknown := known.unknown:
                raise errors.NotFound(
                    f"no edge of this tree listens at {unknown[0]}",
                    hint=f"it has {', '.join(e.zmq for e in known.edges.values()) or 'none yet'}",
                )
        if not known.urls:
            raise errors.Unavailable("this tree has no edge yet", hint="start one first: msrt edge join")
        self.connect()
        self._tending = asyncio.get_running_loop().create_task(self._tend())

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._tending] if self._tending else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()

    def connect(self, most: int = WARM) -> None:
        """Have so many edges at hand, of those that are not yet."""
        there = {front.url for front in self._core.fronts}
        for url in self.known.urls:
            if len(self._core.fronts) >= most:
                return
            if url not in there:
                self._add(url)

    def _add(self, url: str) -> Front | None:
        front = self._front(url)
        if front is not None:
            self._core.fronts.append(front)
            self._tasks[front] = asyncio.get_running_loop().create_task(front.run())
        return front

    def _front(self, url: str) -> Front | None:
        if url.startswith("http"):
            return self._http(url)
        edge = self.known.edge_at(url)
        return PeerFront(self._member, edge, self._core) if edge and self._member else None

    def _http(self, url: str) -> HttpFront:
        return HttpFront(url, self._core, key=self._key, trust=self._trust, pin=self.known.pin_of(url))

    def http_fronts(self) -> list[HttpFront]:
        """One for each edge that speaks HTTP, not connected. Raises Unavailable when none does."""
        urls = [url for url in self.known.urls if url.startswith("http")]
        urls += [edge.http for edge in self.known.edges.values() if edge.http and edge.http not in urls]
        if not urls:
            raise errors.Unavailable("no edge that we know speaks HTTP", hint="name one: http://HOST:PORT")
        return [self._http(url) for url in urls]

    def _drop(self, front: Front) -> None:
        self._core.fronts.remove(front)
        if self._core.current is front:
            self._core.current = None
        self._tasks.pop(front).cancel()

    # --- looking after them

    async def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        lost_at = refresh_at = loop.time()
        refreshed = False
        while True:
            live = [front for front in self._core.fronts if front.live]
            now = loop.time()
            if live:
                lost_at = now
                if now >= refresh_at:
                    refresh_at = now + REFRESH_S
                    await self._refresh(live)
                    self.connect()
                    if refreshed:
                        await self._survey()
                    refreshed = True
                    self._core.prefer_nearest()
            elif now - lost_at > LOST_S:
                await self._seek()
                lost_at = loop.time()
            self._judge()
            await asyncio.sleep(LOOK_S)

    async def _refresh(self, live: Sequence[Front]) -> None:
        """Who else is there, by each that we have at hand: that also measures how far away it is."""
        news = False
        for front in live:
            with contextlib.suppress(errors.MsrtError):  # the others know as much
                news = self.known.learn(await front.edges()) or news
        if news:
            await self.known.save()

    async def _survey(self) -> None:
        """Look at one edge that is not at hand. If it is nearer than one that is, it takes its place."""
        fronts = self._core.fronts
        there = {front.url for front in fronts}
        others = [url for url in self.known.urls if url not in there]
        if not others or len(fronts) < WARM:
            return
        url = min(others, key=lambda url: self._seen.get(url, -math.inf))
        loop = asyncio.get_running_loop()
        self._seen[url] = loop.time()
        front = self._add(url)
        if front is None:
            return
        with contextlib.suppress(errors.MsrtError, TimeoutError):
            async with asyncio.timeout(SURVEY_S):
                while not front.live:
                    self._core.came.clear()
                    await self._core.came.wait()
                await front.edges()
        rivals = [one for one in fronts if one is not front and self._core.idle(one)]
        farthest = max(rivals, key=lambda one: (not one.live, one.latency_s), default=front)
        nearer = front.live and (not farthest.live or front.latency_s < NEARER * farthest.latency_s)
        if len(fronts) > WARM:
            self._drop(farthest if nearer else front)

    async def _seek(self) -> None:
        """Nobody answers: one more of those that we know; edges may have moved, and the cloud knows where to."""
        if self._member is not None:
            with contextlib.suppress(errors.MsrtError):  # what is known is all there is
                await self._ask_cloud(self._member)
        for front in list(self._core.fronts):
            edge = self.known.edges.get(front.edge.node) if isinstance(front, PeerFront) else None
            if isinstance(front, PeerFront) and edge is not None and edge != front.edge:
                self._drop(front)
        self.connect(len(self._core.fronts) + 1)

    async def _ask_cloud(self, member: Member) -> None:
        if self.known.learn(await ask_cloud(member, CLOUD_S)):
            await self.known.save()

    def _judge(self) -> None:
        """When every edge has sent us away for good, waiting is no use."""
        refusals = [front.refused for front in self._core.fronts]
        if refusals and all(refusals):
            assert refusals[0] is not None
            self._core.give_up(refusals[0])
