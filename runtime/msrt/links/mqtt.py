"""MQTT: a master and its nodes as clients of one broker, three topics each: up, down and gone.

The broker guards who writes where (see `broker_files.acl`), so the topic names the sender. On `gone/NODE` a node says
`+NONCE` when it has connected and `-NONCE` when it leaves; the broker says the latter for it, as its Will. The nonce is
of one connection: the Will of a half-dead old one cannot end the new one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.link import PARENT, Credentials, Link, Route, Sink
from msrt.links.mqtt_client import BrokerClient, Events
from msrt.protocol.packing import frame_size, pack_frames, unpack_frames
from msrt.protocol.wire import MQTT_LIMIT

__all__ = ["MqttDialer", "MqttListener", "dial", "listen"]

log = structlog.get_logger()
START_S: Final = 5.0
"""How long a master waits for its broker at the start."""
ROOM: Final = 1 + 4 * 255
"""What packing adds at most."""
HERE: Final = b"+"
LEFT: Final = b"-"


def listen(url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> Link:
    """A master's end; its broker is a client's address to it too. `credentials.master` is its own node id."""
    return MqttListener(url, credentials, allow, random_bytes=os.urandom)


def dial(url: str, credentials: Credentials) -> Link:
    """A node's end: it meets `credentials.master` at the broker."""
    return MqttDialer(url, credentials, random_bytes=os.urandom)


class _MqttLink:
    """What both ends share: one client, its nonce, sizes."""

    limit = MQTT_LIMIT

    def __init__(self, url: str, credentials: Credentials, random_bytes: Callable[[int], bytes]) -> None:
        if not credentials.master:
            raise errors.CallerError("an MQTT link needs the node id of its master")
        self.address = url
        self.sent_bytes = self.received_bytes = 0
        self._credentials = credentials
        self._random_bytes = random_bytes
        self._nonce = b""
        self._base = f"msrt/{credentials.master}/"
        self._sink: Sink | None = None
        self._client: BrokerClient | None = None

    def _open(self, sink: Sink, me: str, subscriptions: Sequence[str]) -> None:
        self._sink = sink
        self._gone = f"{self._base}gone/{me}"
        self._client = BrokerClient(
            self.address,
            self._credentials,
            subscriptions=[self._base + topic for topic in subscriptions],
            will=self._will,
            events=Events(self._up, self._down, self._arrived, self._room),
            random_bytes=self._random_bytes,
        )
        self._client.open()

    def _put(self, topic: str, frames: Sequence[Buffer]) -> bool:
        size = sum(map(frame_size, frames))
        if size > self.limit:
            raise errors.FrameTooLarge(size, self.limit)
        if self._client is None:
            raise errors.Disconnected("this link is closed")
        sent = self._client.publish(topic, pack_frames(frames))
        self.sent_bytes += size if sent else 0
        return sent

    async def close(self) -> None:
        self._sink = None
        if self._client is not None:
            await self._client.close(last=(self._gone, LEFT + self._nonce))
            self._client = None

    def _will(self) -> tuple[str, bytes]:
        self._nonce = self._random_bytes(8)
        return self._gone, LEFT + self._nonce

    def _up(self) -> None:
        if self._client is not None:
            self._client.publish(self._gone, HERE + self._nonce)

    def _down(self, error: errors.PeerError | None) -> None:
        raise NotImplementedError

    def _arrived(self, topic: str, payload: bytes) -> None:
        raise NotImplementedError

    def _room(self) -> None:
        if self._sink is not None:
            self._sink.writable()


class MqttListener(_MqttLink):
    """A master's end. A route is the node's user name; so is the principal.

    `allow(user name)` is asked at a node's first packet. While the broker is away every `send` raises Disconnected;
    all routes are told `gone`.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        allow: Callable[[bytes], bool],
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        super().__init__(url, credentials, random_bytes)
        self._allow = allow
        self._peers: dict[Route, str] = {}
        self._nonces: dict[Route, bytes] = {}
        self._started: asyncio.Future[None] | None = None

    async def start(self, sink: Sink) -> None:
        """Connect to the broker. Raises BrokerFailed when it cannot be reached or refuses us."""
        self._started = asyncio.get_running_loop().create_future()
        self._open(sink, self._credentials.master, ("up/+", "gone/+"))
        try:
            async with asyncio.timeout(START_S):
                await asyncio.shield(self._started)
        except (TimeoutError, errors.PeerError) as error:
            await self.close()
            why = str(error) or f"no answer in {START_S:g} s"
            raise errors.BrokerFailed(f"the MQTT broker at {self.address} does not work: {why}") from error

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        topic = self._peers.get(route)
        if topic is None:
            raise errors.Disconnected("no such peer on this link")
        return self._put(topic, frames)

    def drop(self, route: Route) -> None:
        """Forget a peer. Its connection is the broker's: take its user away to end that."""
        self._peers.pop(route, None)

    def _up(self) -> None:
        super()._up()
        if self._started is not None and not self._started.done():
            self._started.set_result(None)

    def _down(self, error: errors.PeerError | None) -> None:
        if self._started is not None and not self._started.done():
            if isinstance(error, errors.Disconnected):
                return  # it may be starting still: `start` has a deadline of its own
            self._started.set_exception(error or errors.Disconnected("the broker closed the connection"))
            return
        if error is None:
            log.warning("mqtt.broker_lost", broker=self.address, peers=len(self._peers))
        self._nonces.clear()
        for route in list(self._peers):
            self._forget(route, None)

    def _arrived(self, topic: str, payload: bytes) -> None:
        if self._sink is None or not topic.startswith(self._base):
            return
        kind, _, node = topic[len(self._base) :].partition("/")
        route = node.encode()
        if kind == "gone":
            self._presence(route, payload[:1], payload[1:])
        elif kind == "up":
            self._packet(route, node, payload)

    def _presence(self, route: Route, word: bytes, nonce: bytes) -> None:
        known = self._nonces.get(route)
        if word == HERE:
            self._nonces[route] = nonce
            if known is not None and known != nonce:
                self._forget(route, None)  # it is back before the broker noticed that it had gone
        elif known is None or not nonce or known == nonce:
            self._nonces.pop(route, None)
            self._forget(route, None)

    def _packet(self, route: Route, node: str, payload: bytes) -> None:
        assert self._sink is not None
        self.received_bytes += len(payload)
        if route not in self._peers:
            if not self._allow(route):
                log.info("mqtt.refused", user=node)
                return
            self._peers[route] = f"{self._base}down/{node}"
        if len(payload) > self.limit + ROOM:
            self._forget(route, errors.FrameTooLarge(len(payload), self.limit))
            return
        try:
            frames = unpack_frames(payload)
        except errors.MalformedFrame as error:
            self._forget(route, error)
            return
        self._sink.received(route, route, frames)

    def _forget(self, route: Route, error: Exception | None) -> None:
        if self._peers.pop(route, None) is not None and self._sink is not None:
            self._sink.gone(route, error)


class MqttDialer(_MqttLink):
    """A node's end. `send` says False until connected and `writable` is called then, at every connection.

    `gone(PARENT, error)` is called when the broker is lost or cannot be reached, and when the master has left it.
    """

    def __init__(self, url: str, credentials: Credentials, *, random_bytes: Callable[[int], bytes]) -> None:
        super().__init__(url, credentials, random_bytes)
        self._present = True
        self._topic = f"{self._base}up/{credentials.username}"
        self._principal = credentials.master.encode()

    async def start(self, sink: Sink) -> None:
        user, master = self._credentials.username, self._credentials.master
        self._open(sink, user, (f"down/{user}", f"gone/{master}"))

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        if route != PARENT or self._client is None:
            raise errors.Disconnected("no such peer on this link")
        return self._put(self._topic, frames) if self._present else False

    def drop(self, route: Route) -> None:
        """The one connection is the broker's; `close` ends it."""

    def _up(self) -> None:
        self._present = True
        super()._up()
        self._room()

    def _down(self, error: errors.PeerError | None) -> None:
        if self._sink is not None:
            self._sink.gone(PARENT, error)

    def _arrived(self, topic: str, payload: bytes) -> None:
        if self._sink is None:
            return
        if topic.startswith(f"{self._base}gone/"):
            self._presence(payload[:1])
            return
        self.received_bytes += len(payload)
        try:
            frames = unpack_frames(payload)
        except errors.MalformedFrame as error:
            log.warning("mqtt.malformed", broker=self.address, error=error.text)
            return
        self._sink.received(PARENT, self._principal, frames)

    def _presence(self, word: bytes) -> None:
        assert self._sink is not None
        was, self._present = self._present, word == HERE
        if was:
            self._sink.gone(PARENT, None if self._present else errors.Disconnected("the master has left the broker"))
        if self._present:
            self._sink.writable()
