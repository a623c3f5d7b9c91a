"""The simulated network between nodes: delay, loss, duplication, reordering, cuts; all from one seed.

It knows nodes by name and carries calls, not bytes: what a delivery means is the link's business.
"""

from __future__ import annotations

import random  # noqa: TID251 - the type of the seeded source
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msrt.errors import PortInUse
from msrt.world.loop import Process, VirtualLoop

__all__ = ["CALM", "Endpoint", "Faults", "Lane", "Network"]


@dataclass(frozen=True, slots=True)
class Faults:
    """The weather between two nodes. Chances are per packet."""

    delay: float = 0.001
    """Seconds on the way, at least."""
    jitter: float = 0.0005
    """Seconds added, evenly from 0 to this."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Chance to be overtaken: such a packet takes up to ten times as long, the ones behind it do not wait."""
    bandwidth: float = 0.0
    """Bytes per second and direction of a connection; 0: no bound."""
    notice: float = 0.6
    """Chance that the peers of a killed process hear of it from their transport; else only leases tell."""


CALM = Faults()


@dataclass(slots=True)
class Lane:
    """One direction of one connection: packets keep their order on it."""

    arrives: float = 0.0
    """When the last packet in order arrives."""
    free: float = 0.0
    """When the wire has taken all bytes so far."""


class Endpoint(Protocol):
    """A link as the network sees it."""

    process: Process

    def died(self, *, told: bool) -> None:
        """Its process was killed; `told`: its peers get to hear of it."""


@dataclass(slots=True)
class Network:
    """Carries packets between nodes. `faults` is the weather everywhere but between pairs that have their own."""

    loop: VirtualLoop
    rng: random.Random
    faults: Faults = CALM
    pairs: dict[tuple[str, str], Faults] = field(default_factory=dict)
    """Weather of its own from one node to another."""
    cuts: set[tuple[str, str]] = field(default_factory=set)
    """Ways that carry nothing: (from, to)."""
    listeners: dict[str, Endpoint] = field(default_factory=dict)
    """By address."""
    endpoints: dict[Process, list[Endpoint]] = field(default_factory=dict)
    lives: dict[str, Process] = field(default_factory=dict)
    """The latest process of each node."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("sent", "lost", "duplicated", "bytes"), 0))

    def carry(
        self, source: str, target: str, size: int, lane: Lane, deliver: Callable[..., object], *args: Any
    ) -> bool:
        """Call `deliver(*args)` when the packet arrives, once, twice or never. False: lost."""
        counts, faults = self.counts, self.faults
        counts["sent"] += 1
        counts["bytes"] += size
        if self.pairs:
            faults = self.pairs.get((source, target), faults)
        if (source, target) in self.cuts or (faults.loss and self.rng.random() < faults.loss):
            counts["lost"] += 1
            return False
        now = self.loop.time()
        at = now + faults.delay + faults.jitter * self.rng.random()
        if faults.bandwidth:
            lane.free = max(lane.free, now) + size / faults.bandwidth
            at += lane.free - now
        if faults.reorder and self.rng.random() < faults.reorder:
            at += (at - now) * 10 * self.rng.random()
        else:
            at = lane.arrives = max(at, lane.arrives)
        self.loop.call_at(at, deliver, *args, context=self.loop.outside)
        if faults.duplicate and self.rng.random() < faults.duplicate:
            counts["duplicated"] += 1
            self.loop.call_at(at + faults.delay * self.rng.random() * 10, deliver, *args, context=self.loop.outside)
        return True

    def cut(self, source: str | Iterable[str], target: str | Iterable[str]) -> None:
        """Let nothing pass from one node (or group) to another; the way back stays open."""
        self.cuts.update((a, b) for a in _names(source) for b in _names(target) if a != b)

    def partition(self, left: str | Iterable[str], right: str | Iterable[str]) -> None:
        """Cut both ways between two nodes or groups. Nobody is told: packets just do not arrive."""
        left, right = _names(left), _names(right)
        self.cut(left, right)
        self.cut(right, left)

    def heal(self, left: str | Iterable[str] = (), right: str | Iterable[str] = ()) -> None:
        """Undo cuts between two groups, both ways; all cuts if none is named."""
        if not left and not right:
            self.cuts.clear()
        left, right = _names(left), _names(right)
        self.cuts -= {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}

    def bind(self, address: str, endpoint: Endpoint) -> None:
        """Listen at an address. Raises PortInUse while a living process does."""
        holder = self.listeners.get(address)
        if holder is not None and not holder.process.dead:
            raise PortInUse(f"{address} is taken by {holder.process.name}")
        self.listeners[address] = endpoint

    def open(self, endpoint: Endpoint) -> None:
        self.endpoints.setdefault(endpoint.process, []).append(endpoint)

    def shut(self, address: str, endpoint: Endpoint) -> None:
        """Forget an endpoint, and its address if it listened there."""
        mine = self.endpoints.get(endpoint.process, [])
        if endpoint in mine:
            mine.remove(endpoint)
        if self.listeners.get(address) is endpoint:
            del self.listeners[address]

    def still_silent(self, process: Process) -> bool:
        """Whether a dead process's host says nothing: it fell silent, and no later life has come up on it."""
        return process.silent and self.lives.get(process.name, process) is process

    def crashed(self, process: Process) -> None:
        """A process was killed: its links fall mute, and its peers may hear of it."""
        process.silent = self.rng.random() >= self.faults.notice
        for endpoint in self.endpoints.pop(process, []):
            endpoint.died(told=not process.silent)

    def weather(self, faults: Faults, pairs: Mapping[tuple[str, str], Faults] | None = None) -> None:
        """Change the weather everywhere, and between some pairs."""
        self.faults = faults
        self.pairs = dict(pairs or {})


def _names(nodes: str | Iterable[str]) -> tuple[str, ...]:
    return (nodes,) if isinstance(nodes, str) else tuple(nodes)
