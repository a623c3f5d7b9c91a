"""One connection of the memory link: two ends, each sends in its own direction with a bound on what is under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from msrt import errors
from msrt.buffers import Buffer
from msrt.links.link import Route
from msrt.world.loop import Process
from msrt.world.network import Lane, Network

__all__ = ["FLIGHT", "End", "Wire"]

FLIGHT: Final = 4 << 20
"""Bytes under way in one direction, from which `send` says False; half of it calls `writable`."""
FIN_BYTES: Final = 60


class Holder(Protocol):
    """The link at one end of a wire."""

    process: Process

    def received(self, wire: Wire, frames: list[Buffer]) -> None: ...

    def hung_up(self, wire: Wire) -> None: ...

    def room(self) -> None: ...


class End:
    """The sending half of one side."""

    def __init__(self, wire: Wire, network: Network, here: Holder, there: Holder) -> None:
        self._wire, self._network, self._here, self._there = wire, network, here, there
        self._source, self._target = here.process.name, there.process.name
        self._lane = Lane()
        self._flight = 0
        self._full = False

    def put(self, frames: Sequence[Buffer], limit: int) -> bool:
        """Send one packet. The bytes are taken as they are now."""
        packet: list[Buffer] = [bytes(frame) for frame in frames]
        size = sum(map(len, packet))
        if size > limit:
            raise errors.FrameTooLarge(size, limit)
        if self._here.process.dead:
            return True  # the words of a dead process reach nobody
        if self._flight >= FLIGHT:
            self._full = True
            return False
        if self._network.carry(self._source, self._target, size, self._lane, self._arrive, packet, size):
            self._flight += size
        return True

    def open(self, deliver: Callable[..., object], *args: Any) -> None:
        """Send what begins the connection, ahead of all packets."""
        self._network.carry(self._source, self._target, FIN_BYTES, self._lane, deliver, *args)

    def hang_up(self) -> None:
        """Tell the other end that this one is closed, behind all packets."""
        if not self._here.process.dead:
            self._bye()

    def die(self, *, told: bool) -> None:
        """The process on this side was killed; its host says so, or not."""
        if told:
            self._bye()

    def _bye(self) -> None:
        there = self._there
        self._network.carry(
            self._source, self._target, FIN_BYTES, self._lane, there.process.run, there.hung_up, self._wire
        )

    def _arrive(self, packet: list[Buffer], size: int) -> None:
        """At the other host. A dead process is answered for by its host, unless that fell silent and is still down."""
        process = self._there.process
        if not process.dead:
            process.run(self._deliver, packet, size)
        elif not self._network.still_silent(process):
            here = self._here
            names = (self._target, self._source)
            self._network.carry(*names, FIN_BYTES, Lane(), here.process.run, here.hung_up, self._wire)

    def _deliver(self, packet: list[Buffer], size: int) -> None:
        self._flight = max(0, self._flight - size)
        if self._full and self._flight <= FLIGHT // 2:
            self._full = False
            self._network.loop.call_soon(self._here.room, context=self._here.process.context)
        self._there.received(self._wire, list(packet))


class Wire:
    """A connection between a dialler and a listener."""

    def __init__(self, network: Network, dialer: Holder, attempt: int, listener: Holder, route: Route) -> None:
        self.dialer, self.attempt, self.route = dialer, attempt, route
        self.principal = b""
        self.heard = False
        """The listener's sink knows the route: something came over it."""
        self.up = End(self, network, dialer, listener)
        self.down = End(self, network, listener, dialer)
