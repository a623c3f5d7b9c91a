"""Posts events as JSON to a URL, at least once, in order, with backoff; it never holds anything else up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import httpx
import msgspec
import structlog

from msrt import errors
from msrt.protocol import wire
from msrt.protocol.messages import Event
from msrt.settings import EdgeConfig
from msrt.world.world import World
from msrt_edge.events import Events

__all__ = ["Webhook"]

log = structlog.get_logger()
PAUSE_S = 0.5


class Webhook:
    """Drains the webhook's own queue of an edge's events. Raises InvalidConfig."""

    def __init__(self, world: World, events: Events, config: EdgeConfig) -> None:
        self._world, self._events, self._config = world, events, config
        try:
            host = httpx.URL(config.webhook_url).host
        except httpx.InvalidURL as error:
            raise errors.InvalidConfig(f"webhook_url = {config.webhook_url!r} is no URL: {error}") from None
        if not host:
            raise errors.InvalidConfig(f"webhook_url = {config.webhook_url!r} names no host")

    async def run(self) -> None:
        """For ever."""
        hook = self._events.hook
        assert hook is not None
        pause = PAUSE_S
        async with httpx.AsyncClient(timeout=self._config.webhook_timeout_s) as client:
            while True:
                self._events.hook_wake.clear()
                batch = hook.unacked(0, self._config.webhook_batch)
                if not batch:
                    await self._events.hook_wake.wait()
                    continue
                if await self._post(client, [wire.unpack(data, Event) for _, data in batch]):
                    hook.ack(batch[-1][0])
                    await self._saved()
                    pause = PAUSE_S
                else:
                    await asyncio.sleep(pause * (1 + self._world.random.random()))
                    pause = min(pause * 2, self._config.webhook_retry_max_s)

    async def _saved(self) -> None:
        try:
            await self._events.upward.flush()
        except errors.DiskFull as error:
            log.warning("webhook.position_not_on_disk", error=error.text)

    async def _post(self, client: httpx.AsyncClient, events: list[Event]) -> bool:
        body = msgspec.json.encode({"events": events})
        headers = {"Content-Type": "application/json"}
        if self._config.webhook_secret:
            mac = hmac.new(self._config.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Msrt-Signature"] = f"sha256={mac}"
        try:
            answer = await client.post(self._config.webhook_url, content=body, headers=headers)
        except httpx.HTTPError as error:
            log.warning("webhook.failed", error=f"{type(error).__name__}: {error}")
            return False
        if answer.status_code >= 300:
            log.warning("webhook.refused", status=answer.status_code)
            return False
        return True
