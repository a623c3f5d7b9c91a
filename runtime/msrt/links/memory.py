"""The link of the simulation: `mem://NODE` over the simulated network, with the manners of the real ones.

A dialler connects in the background and again after every loss; packets of a live connection may be lost, doubled or
overtaken, as the weather has it. A listener lives on the node that its URL names. `?limit=262144` gives MQTT's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.link import PARENT, Credentials, Link, Route, Sink
from msrt.links.memory_wire import Wire
from msrt.world.loop import Process
from msrt.world.network import Lane, Network

__all__ = ["LIMIT", "MemoryDialer", "MemoryLinks", "MemoryListener"]

LIMIT: Final = 1 << 20
HANDSHAKE_BYTES: Final = 200
ATTEMPT_S: Final = 1.0
"""A dial without an answer by then has failed."""
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0


class MemoryLinks:
    """The `Links` of one process."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network, self._process = network, process

    def listen(self, url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> Link:
        """`mem://` or `mem://OWN-NAME`, with a /path if a node listens more than once."""
        node, address, limit = _parse(url, self._process.name)
        if node != self._process.name:
            raise errors.InvalidAddress(f"{self._process.name} cannot listen at {url}", hint="name the node itself")
        return MemoryListener(self._network, self._process, address, limit, credentials, allow)

    def dial(self, url: str, credentials: Credentials) -> Link:
        node, address, limit = _parse(url, "")
        return MemoryDialer(self._network, self._process, node, address, limit, credentials)


class MemoryListener:
    """A master's end."""

    def __init__(
        self,
        network: Network,
        process: Process,
        address: str,
        limit: int,
        credentials: Credentials,
        allow: Callable[[bytes], bool],
    ) -> None:
        self.limit, self.address, self.process = limit, address, process
        self.sent_bytes = self.received_bytes = 0
        self.key = public_key(credentials.secret_key)
        self._network, self._allow = network, allow
        self._sink: Sink | None = None
        self._wires: dict[Route, Wire] = {}
        self._routes = 0

    async def start(self, sink: Sink) -> None:
        self._network.bind(self.address, self)
        self._network.open(self)
        self._sink = sink

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        wire = self._wires.get(route)
        if wire is None:
            raise errors.Disconnected("no such peer on this link")
        taken = wire.down.put(frames, self.limit)
        self.sent_bytes += sum(map(len, frames)) if taken else 0
        return taken

    def drop(self, route: Route) -> None:
        wire = self._wires.pop(route, None)
        if wire is not None:
            wire.down.hang_up()

    async def close(self) -> None:
        for route in list(self._wires):
            self.drop(route)
        self._network.shut(self.address, self)
        self._sink = None

    def died(self, *, told: bool) -> None:
        """Network: the process was killed."""
        for wire in self._wires.values():
            wire.down.die(told=told)
        self._sink = None

    # --- what the network brings

    def called(self, dialer: MemoryDialer, attempt: int, principal: bytes, expected: bytes) -> None:
        """Somebody dials."""
        if self._sink is None:
            return
        for route, wire in self._wires.items():
            if wire.dialer is dialer:
                if wire.attempt == attempt:
                    return  # the same call, doubled on its way
                self._ended(wire, route)
                break
        error: errors.PeerError | None = None
        if expected and expected != self.key:
            error = errors.WrongServerKey(f"{self.address} does not hold the key we expect")
            self._sink.gone(b"", errors.WrongServerKey("a client does not know our key"))
        elif not self._allow(principal):
            error = errors.NotEnrolled(f"{self.address} refused our key: it is not of an enrolled node")
            self._sink.gone(b"", errors.NotEnrolled("a client's key was refused"))
        back = (self.process.name, dialer.process.name, HANDSHAKE_BYTES, Lane(), dialer.process.run, dialer.answered)
        if error is not None:
            self._network.carry(*back, attempt, None, error)
            return
        self._routes += 1
        route = self._routes.to_bytes(4, "big")
        wire = Wire(self._network, dialer, attempt, self, route)
        self._wires[route] = wire
        wire.principal = principal
        wire.down.open(dialer.process.run, dialer.answered, attempt, wire, None)

    def received(self, wire: Wire, frames: list[Buffer]) -> None:
        if self._wires.get(wire.route) is wire and self._sink is not None:
            wire.heard = True
            self.received_bytes += sum(map(len, frames))
            self._sink.received(wire.route, wire.principal, frames)
        else:
            wire.down.hang_up()

    def hung_up(self, wire: Wire) -> None:
        self._ended(wire, wire.route)

    def room(self) -> None:
        if self._sink is not None:
            self._sink.writable()

    def _ended(self, wire: Wire, route: Route) -> None:
        if self._wires.get(route) is wire:
            del self._wires[route]
            if wire.heard and self._sink is not None:
                self._sink.gone(route, None)


class MemoryDialer:
    """The end that dials. `send` says False until connected; `writable` is called at every connection."""

    def __init__(
        self, network: Network, process: Process, node: str, address: str, limit: int, credentials: Credentials
    ) -> None:
        self.limit, self.address, self.process, self.node = limit, address, process, node
        self.sent_bytes = self.received_bytes = 0
        self._network = network
        self._server_key = credentials.server_key
        self._principal = public_key(credentials.secret_key) or credentials.username.encode()
        self._sink: Sink | None = None
        self._wire: Wire | None = None
        self._attempt = 0
        self._backoff_s = BACKOFF_S

    async def start(self, sink: Sink) -> None:
        self._sink = sink
        self._network.open(self)
        self._dial()

    def send(self, route: Route, frames: Sequence[Buffer]) -> bool:
        if route != PARENT or self._sink is None:
            raise errors.Disconnected("no such peer on this link")
        taken = self._wire.up.put(frames, self.limit) if self._wire is not None else False
        self.sent_bytes += sum(map(len, frames)) if taken else 0
        return taken

    def drop(self, route: Route) -> None:
        if route == PARENT and self._wire is not None:
            self._wire.up.hang_up()
            self._wire = None
            self._later()

    async def close(self) -> None:
        if self._wire is not None:
            self._wire.up.hang_up()
        self._sink = self._wire = None
        self._network.shut(self.address, self)

    def died(self, *, told: bool) -> None:
        """Network: the process was killed."""
        if self._wire is not None:
            self._wire.up.die(told=told)
        self._sink = self._wire = None

    # --- what the network brings

    def answered(self, attempt: int, wire: Wire | None, error: errors.PeerError | None) -> None:
        """The listener took us, or refused us."""
        if self._sink is None or attempt != self._attempt or self._wire is not None:
            if wire is not None and wire is not self._wire:
                wire.up.hang_up()
        elif wire is None:
            self._over(error)
        else:
            self._wire, self._backoff_s = wire, BACKOFF_S
            self._sink.writable()

    def received(self, wire: Wire, frames: list[Buffer]) -> None:
        if self._wire is wire and self._sink is not None:
            self.received_bytes += sum(map(len, frames))
            self._sink.received(PARENT, self._server_key, frames)
        else:
            wire.up.hang_up()

    def hung_up(self, wire: Wire) -> None:
        if self._wire is wire:
            self._over(None)

    def room(self) -> None:
        if self._sink is not None:
            self._sink.writable()

    # --- dialling

    def _dial(self) -> None:
        self._attempt += 1
        self._call_later(ATTEMPT_S, self._expired, self._attempt)
        names = (self.process.name, self.node)
        self._network.carry(*names, HANDSHAKE_BYTES, Lane(), self._ring, self._attempt)

    def _ring(self, attempt: int) -> None:
        """The call arrives at the other node. A host without a listener refuses, unless it fell silent."""
        listener = self._network.listeners.get(self.address)
        if isinstance(listener, MemoryListener) and not listener.process.dead:
            listener.process.run(listener.called, self, attempt, self._principal, self._server_key)
        elif listener is None or not self._network.still_silent(listener.process):
            error = errors.Disconnected(f"{self.address} cannot be reached", hint="is it running?")
            names = (self.node, self.process.name)
            self._network.carry(
                *names, HANDSHAKE_BYTES, Lane(), self.process.run, self.answered, attempt, None, error
            )  # fmt: skip

    def _expired(self, attempt: int) -> None:
        if attempt == self._attempt and self._wire is None:
            self._over(errors.Disconnected(f"{self.address} did not answer in {ATTEMPT_S:g} s"))

    def _over(self, error: errors.PeerError | None) -> None:
        """End this attempt or connection, and dial again later."""
        if self._sink is not None:
            self._wire = None
            self._later()
            self._sink.gone(PARENT, error)

    def _later(self) -> None:
        self._attempt += 1
        pause = self._backoff_s * (0.5 + self._network.rng.random())
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        self._call_later(pause, self._redial, self._attempt)

    def _redial(self, attempt: int) -> None:
        if attempt == self._attempt and self._sink is not None:
            self._dial()

    def _call_later(self, seconds: float, work: Callable[[int], None], attempt: int) -> None:
        self._network.loop.call_later(seconds, work, attempt, context=self.process.context)


@lru_cache(maxsize=4096)
def public_key(secret: bytes) -> bytes:
    """The X25519 public key of a secret one; empty for none."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() if secret else b""


def _parse(url: str, default: str) -> tuple[str, str, int]:
    """mem://NODE/PATH?limit=BYTES -> node, address, limit."""
    parts = urlsplit(url)
    node = parts.netloc or default
    if parts.scheme != "mem" or not node:
        raise errors.InvalidAddress(f"{url!r} is no mem:// address", hint="write mem://NODE")
    limits = parse_qs(parts.query).get("limit")
    return node, f"mem://{node}{parts.path.rstrip('/')}", int(limits[0]) if limits else LIMIT
