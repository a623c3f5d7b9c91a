"""Durable events of the devices: on disk before they are acknowledged, then to the cloud, followers, webhook."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from msrt import errors
from msrt.hop.durable import DurableSender
from msrt.journal.inbox import Inbox
from msrt.journal.outbox import Outbox, Overflow, commit_all
from msrt.protocol import wire
from msrt.protocol.messages import Event, Message
from msrt.world.world import World

__all__ = ["Events"]

log = structlog.get_logger()
FOLLOWER_QUEUE = 1024
"""Events that wait for one slow follower; beyond it the oldest go, for it alone."""
TIDY_S = 60.0


class Events:
    """The spool. `upward` is its sender to the cloud, attached while the cloud is here."""

    def __init__(self, world: World, *, bound_bytes: int, max_age_s: float, webhook: bool) -> None:
        store = world.disk.store("events")
        bounds = {"bound_bytes": bound_bytes, "max_age_s": max_age_s, "wall": world.wall}
        self._world = world
        self._inbox = Inbox(store)
        cloud = Outbox(store, "cloud", overflow=Overflow.DROP_OLDEST, **bounds)  # type: ignore[arg-type]
        self.hook = Outbox(store, "webhook", overflow=Overflow.DROP_OLDEST, **bounds) if webhook else None  # type: ignore[arg-type]
        self.hook_wake = asyncio.Event()
        boxes = [cloud] if self.hook is None else [cloud, self.hook]
        self.upward = DurableSender(
            world, cloud, lambda data: wire.unpack(data, Event), commit=lambda: commit_all(store, *boxes)
        )
        self._followers: dict[asyncio.Queue[Event], None] = {}
        self._held: list[Event] = []
        """Taken, and not on disk yet: followers hear of them when they are."""
        self.received = 0
        self.duplicates = 0
        self._too_large = 0

    @property
    def dropped(self) -> int:
        """Events that the cloud does not get, given up by the bounds."""
        return self.upward.outbox.dropped + self._too_large

    @property
    def hook_dropped(self) -> int:
        """Events that the webhook does not get, given up by the same bounds."""
        return self.hook.dropped + self._too_large if self.hook is not None else 0

    @property
    def waiting(self) -> int:
        """Events that the cloud has not acknowledged."""
        return len(self.upward.outbox)

    async def stored(self, messages: list[Message]) -> None:
        """On disk on return; one that was here before changes nothing. Raises DiskFull."""
        fresh: list[Event] = []
        full: errors.DiskFull | None = None
        for message in messages:
            if not isinstance(message, Event):
                continue
            if self._inbox.seen(message.node, "events", message.seq):
                self.duplicates += 1
                continue
            try:
                fresh += self._queued(message)
            except errors.DiskFull as error:
                full = error
                break
        try:
            await self.upward.flush()
        except errors.DiskFull:
            self._held += fresh
            raise
        fresh, self._held = self._held + fresh, []
        self._announce(fresh)
        if full is not None:
            raise full

    def _queued(self, event: Event) -> list[Event]:
        """Queue one for the cloud and the webhook, and only then call it seen. Raises DiskFull: then it is not."""
        data = wire.pack(event)
        taken = [event]
        try:
            self.upward.outbox.put(data)
            if self.hook is not None:
                self.hook.put(data)
        except errors.Overloaded as error:
            log.warning("events.too_large", device=event.name, seq=event.seq, error=errors.words_of(error))
            self._too_large += 1
            taken = []
        self._inbox.mark(event.node, "events", event.seq)
        return taken

    def _announce(self, fresh: list[Event]) -> None:
        self.received += len(fresh)
        if self.hook is not None:
            self.hook_wake.set()
        for queue in self._followers:
            for event in fresh:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(event)

    async def follow(self, model: str, device: str) -> AsyncIterator[Event]:
        """Events from now on."""
        queue: asyncio.Queue[Event] = asyncio.Queue(FOLLOWER_QUEUE)
        self._followers[queue] = None
        try:
            while True:
                event = await queue.get()
                if (not model or event.model == model) and (not device or device in (event.name, event.node)):
                    yield event
        finally:
            self._followers.pop(queue, None)

    async def tidy(self) -> None:
        """Give up what is too old, now and then."""
        while True:
            await asyncio.sleep(TIDY_S)
            await self.expire()

    async def expire(self) -> None:
        """Give up what is too old, for the cloud and for the webhook."""
        gone = self.upward.outbox.expire() + (self.hook.expire() if self.hook is not None else 0)
        if gone:
            log.warning("events.expired", count=gone)
        with contextlib.suppress(errors.LocalError):  # the next event's commit, or the next round here, tries again
            await self.upward.flush()
