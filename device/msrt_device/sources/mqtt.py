"""Reads an MQTT topic, one reading a payload; comes back by itself when the broker does."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog

from msrt import errors
from msrt.links.link import Credentials
from msrt.links.mqtt_client import BrokerClient, Events
from msrt.settings import SourceConfig
from msrt.world.world import World
from msrt_device.sources.source import Source, parse_line

__all__ = ["mqtt"]

log = structlog.get_logger()
WAITING: Final = 1024
"""Payloads that wait for the model; beyond it the oldest go and are counted: a topic has no memory to wait in."""


class _Topic:
    """What came and was not read yet."""

    def __init__(self, config: SourceConfig) -> None:
        self._name = config.name
        self.came: deque[bytes] = deque()
        self.wake = asyncio.Event()
        self.dropped = 0
        self.refused: errors.MsrtError | None = None

    def message(self, _topic: str, payload: bytes) -> None:
        if len(self.came) >= WAITING:
            self.came.popleft()
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("source.readings_dropped", source=self._name, count=self.dropped)
        self.came.append(payload)
        self.wake.set()

    def up(self) -> None:
        log.info("source.broker_here", source=self._name)

    def down(self, error: errors.PeerError | None) -> None:
        why = errors.words_of(error) if error is not None else "the connection was lost"
        log.warning("source.broker_away", source=self._name, error=why)
        if isinstance(error, errors.NotEnrolled | errors.Forbidden | errors.WrongServerKey):
            self.refused = error
            self.wake.set()


async def mqtt(world: World, config: SourceConfig, _skip: int) -> Source:
    """Yield one reading a payload: a JSON array, or numbers apart by commas or spaces.

    `url` may carry a user name and password: mqtt://USER:PASSWORD@HOST:PORT. Raises InvalidConfig, and what a broker
    that refuses us says; one that is away is waited for.
    """
    if not config.topic or not config.url:
        raise errors.InvalidConfig(
            f"source {config.name!r} needs a topic and a broker", hint='topic = "line/2/#", url = "mqtt://HOST:1883"'
        )
    topic = _Topic(config)
    client = _client(world, config, topic)
    client.open()
    try:
        while True:
            await topic.wake.wait()
            topic.wake.clear()
            if topic.refused is not None:
                raise topic.refused
            while topic.came:
                try:
                    reading = parse_line(topic.came.popleft(), config.name)
                except errors.InvalidTensor as error:
                    log.warning("source.bad_reading", source=config.name, error=error.text)
                    continue
                yield reading
                await asyncio.sleep(config.interval_s)
    finally:
        await client.close()


def _client(world: World, config: SourceConfig, topic: _Topic) -> BrokerClient:
    parts = urlsplit(config.url)
    credentials = Credentials(username=unquote(parts.username or ""), password=unquote(parts.password or ""))
    try:
        return BrokerClient(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            credentials,
            subscriptions=[config.topic],
            will=None,
            events=Events(up=topic.up, down=topic.down, message=topic.message, writable=lambda: None),
            random_bytes=world.random.randbytes,
        )
    except errors.InvalidAddress as error:
        raise errors.InvalidConfig(f"source {config.name!r}: {error}") from None
