"""The seam every transport implements: packets in, packets out, and word of who went away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msrt.buffers import Buffer

Route = bytes
"""Names one peer on one link. Stable while the peer is connected; a dialled link has the one route `PARENT`."""

PARENT: Route = b""


class Sink(Protocol):
    """Who receives what a link brings. Called from the event loop, never from a thread."""

    def received(self, route: Route, principal: bytes, frames: list[Buffer]) -> None:
        """One whole packet. `principal`: what the transport proved of the sender: its CURVE public key (32 bytes),
        its MQTT user name (the node id, ASCII), or empty."""

    def gone(self, route: Route, error: Exception | None) -> None:
        """The transport saw the peer leave, or (dialled) could not reach it: `error` says why if it is known.
        A listener says `gone(b"", error)` of a client that it refused before it was a peer."""

    def writable(self) -> None:
        """A `send` that returned False may be tried again. A dialled link says so at every connection."""


class Link(Protocol):
    """One open endpoint: a master's (many routes) or a worker's (the one route PARENT)."""

    limit: int
    """Largest packet in bytes, all frames together."""
    sent_bytes: int
    received_bytes: int
    address: str
    """Where it listens or what it dials, as a URL with the real port."""

    async def start(self, sink: Sink) -> None:
        """Bind or connect; raises PortInUse, BrokerFailed. A dialled link connects in the background, with backoff."""

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        """Hand over one packet; False when the transport is full, or not connected, for now.
        Raises Disconnected for an unknown route, FrameTooLarge over the limit."""

    def drop(self, route: Route) -> None:
        """Forget a peer: close its connection if the transport has one."""

    async def close(self) -> None:
        """Flush what can be flushed at once, and close."""


@dataclass(frozen=True)
class Credentials:
    """What a link needs to prove itself and to check its peers."""

    secret_key: bytes = b""
    """Own X25519 (CURVE) secret key, 32 raw bytes."""
    server_key: bytes = b""
    """Dialling: the CURVE public key the server must hold, 32 raw bytes."""
    username: str = ""
    """MQTT user: the node id, or invite-ID while enrolling."""
    password: str = field(default="", repr=False)
    fingerprint: str = ""
    """SHA-256 hex of the broker's certificate; empty: no TLS."""
    master: str = ""
    """MQTT: node id of the master, the first level of its topics (msrt/MASTER/up|down/NODE)."""
