"""One client connection to an MQTT broker, kept up: paho driven by the event loop's readers and writers, no thread.

The only file that imports paho. QoS 0, clean session, nothing retained: reliability is our session's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from msrt import errors
from msrt.links.endpoint import parse_endpoint
from msrt.links.link import Credentials
from msrt.links.mqtt_socket import dial_broker

__all__ = ["BrokerClient", "Events"]

KEEPALIVE_S: Final = 4
"""The broker ends a silent connection after one and a half of it, and sends its Will."""
CONNECT_S: Final = 3.0
"""From dialling to the acknowledged subscription."""
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
QUEUE_BYTES: Final = 1 << 20
"""Bytes that may wait for the socket before `publish` says False."""
FAIR: Final = 32
"""Packets read in one turn of the loop."""
REFUSED: Final = frozenset({4, 5, 134, 135})
"""CONNACK codes of a broker that does not know us (MQTT 3.1.1 and 5)."""


@dataclass(frozen=True)
class Events:
    """What a connection tells its owner."""

    up: Callable[[], None]
    """Connected and subscribed."""
    down: Callable[[errors.PeerError | None], None]
    """Lost (None), or an attempt failed and why."""
    message: Callable[[str, bytes], None]
    """Topic and payload."""
    writable: Callable[[], None]
    """A `publish` that returned False may be tried again."""


class _Paho(paho.Client):
    """paho that takes a connected socket: its own way of connecting blocks."""

    connected_socket: Any = None

    def _create_socket(self) -> Any:
        return self.connected_socket


class BrokerClient:
    """Connects, subscribes, and does so again with backoff until `close`.

    `will`: where there is one, asked at each connection for the topic and payload that the broker publishes when it
    dies without a goodbye.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        subscriptions: Sequence[str],
        will: Callable[[], tuple[str, bytes]] | None = None,
        events: Events,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.address = url
        endpoint = parse_endpoint(url, "mqtt", "mqtts")
        self._tls = endpoint.scheme == "mqtts"
        self._host, self._port = endpoint.host, endpoint.port or (8883 if self._tls else 1883)
        if credentials.fingerprint and not self._tls:
            raise errors.InvalidAddress(f"{url} is not encrypted, but a certificate is expected", hint="use mqtts://")
        self._credentials, self._will, self._events = credentials, will, events
        self._subscriptions = [(topic, 0) for topic in subscriptions]
        self._random_bytes = random_bytes
        self._client: _Paho | None = None
        self._ended: asyncio.Future[errors.PeerError | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._fd = -1
        self._subscribed = False
        self._queued = 0
        self._full = False
        self._flushing = False
        self._writing = False
        self.up = False

    def open(self) -> None:
        """Begin to connect, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def publish(self, topic: str, payload: bytes) -> bool:
        """Queue one packet; False while not up or the queue is full."""
        if self._client is None or not self.up:
            return False
        if self._queued + len(payload) > QUEUE_BYTES and self._queued:
            self._full = True
            return False
        self._queued += len(payload)
        self._client.publish(topic, payload)
        return True

    async def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Publish `last` if it can go at once, say goodbye, and stop."""
        if self._client is not None and self.up:
            if last is not None:
                self._client.publish(*last)
            self._unwatch()
            self._client.disconnect()
            self._client.loop_write()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        pause = BACKOFF_S
        while True:
            error: errors.PeerError | None
            try:
                error = await self._connection()
            except OSError as fault:
                what = os.strerror(fault.errno) if fault.errno else "no answer in time"
                error = errors.Disconnected(f"{self.address} cannot be reached ({what})", hint="is it running?")
            except errors.PeerError as refusal:
                error = refusal
            finally:
                was_up = self.up
                self._end()
            if was_up:
                pause = BACKOFF_S
            self._events.down(error)
            await asyncio.sleep(pause * (0.5 + self._random_bytes(1)[0] / 255))
            pause = min(pause * 2, BACKOFF_MAX_S)

    async def _connection(self) -> errors.PeerError | None:
        """One connection, until it is lost."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        async with asyncio.timeout(CONNECT_S):
            socket = await dial_broker(self._host, self._port, tls=self._tls, fingerprint=self._credentials.fingerprint)
        client = self._client = self._make(socket)
        client.connect(self._host, self._port, KEEPALIVE_S)
        self._fd = socket.fileno()
        loop.add_reader(self._fd, self._readable)
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await asyncio.shield(self._ended)
        if not self._ended.done() and not self.up:
            return errors.Disconnected(f"{self.address} did not take us in within {CONNECT_S:g} s")
        while not self._ended.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.shield(self._ended)
            client.loop_misc()
        return self._ended.result()

    def _make(self, socket: sockets.socket) -> _Paho:
        name = self._credentials.username
        client = _Paho(CallbackAPIVersion.VERSION2, client_id=name, clean_session=True, protocol=paho.MQTTv311)
        client.connected_socket = socket
        if name:
            client.username_pw_set(name, self._credentials.password)
        if self._will is not None:
            client.will_set(*self._will())
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        return client

    # --- paho's callbacks: note what came, act when paho is done

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if not code.is_failure:
            client.subscribe(self._subscriptions)
        elif code.value in REFUSED:
            self._finish(errors.NotEnrolled(f"{self.address} does not know {self._credentials.username!r}"))
        else:
            self._finish(errors.Disconnected(f"{self.address} refused the connection: {code}"))

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        if any(code.is_failure for code in codes):
            self._finish(errors.Forbidden(f"{self.address} denies us our topics", hint="give the broker msrt's ACL"))
            return
        self._subscribed = True

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._inbox.append((message.topic, bytes(message.payload)))

    def _on_socket_close(self, *_ignored: Any) -> None:
        self._unwatch()  # before its descriptor gets another owner

    def _on_register_write(self, *_ignored: Any) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _on_unregister_write(self, *_ignored: Any) -> None:
        """`_flush` looks at `want_write` itself; without this, paho takes register_write for the thread's business."""

    # --- the loop's callbacks

    def _readable(self) -> None:
        client = self._client
        if client is None:
            return
        for _ in range(FAIR):
            if client.loop_read() is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._finish(None)
                break
            if self._subscribed and not self.up:
                self.up = True
                self._events.up()
            elif not self._inbox:
                break
            while self._inbox:
                self._events.message(*self._inbox.popleft())
            if self._client is not client:
                return
        socket = client.connected_socket
        if self._client is client and isinstance(socket, ssl.SSLSocket) and socket.fileno() >= 0 and socket.pending():
            asyncio.get_running_loop().call_soon(self._readable)  # decrypted already: the descriptor will not say so

    def _flush(self) -> None:
        self._flushing = False
        client = self._client
        if client is None:
            return
        if client.loop_write() is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._finish(None)
            return
        waiting = client.want_write() and self._fd >= 0
        if waiting is not self._writing:
            loop = asyncio.get_running_loop()
            self._writing = waiting
            if waiting:
                loop.add_writer(self._fd, self._flush)
            else:
                loop.remove_writer(self._fd)
        if not waiting:
            self._queued = 0
            if self._full:
                self._full = False
                self._events.writable()

    def _finish(self, error: errors.PeerError | None) -> None:
        self._unwatch()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(error)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
        self._fd, self._writing = -1, False

    def _end(self) -> None:
        """Forget the connection."""
        self._unwatch()
        client, self._client = self._client, None
        if client is not None:
            client.connected_socket.close()
        self.up = self._full = self._subscribed = False
        self._queued = 0
        self._inbox.clear()
