"""A place in a simulated tree, what may sit in it, and the seeded parts of its world."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - every source here is seeded
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from msrt.errors import NotFound
from msrt.world.loop import Process
from msrt.world.memory import MemoryDisk
from msrt.world.world import World

__all__ = ["Build", "Node", "Seat", "builder", "inline", "seeded"]

OFFLOAD_S: Final = 0.002
"""Offloaded work takes up to this long, so that others run, and crashes strike, before or after it."""


class Node(Protocol):
    """Anything that lives: returns from `run` when it is done, is killed otherwise."""

    async def run(self) -> None: ...


Build = Callable[[World, Any], Node]


@dataclass(slots=True)
class Seat:
    """A place in the tree: what stays when the process in it changes."""

    name: str
    build: Build | None
    config: Any
    disk: MemoryDisk
    process: Process
    world: World
    node: Node | None = None
    skew_s: float = 0.0


def seeded(*parts: object) -> random.Random:
    """A source of its own for each purpose, so that one more draw here changes nothing there."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - a simulation has no secrets


def inline(rng: random.Random) -> Callable[..., Awaitable[Any]]:
    """An `offload` without threads: the work runs at once or a moment later, its caller goes on after that moment."""

    async def offload(work: Callable[..., Any], *args: Any) -> Any:
        pause = rng.random() * OFFLOAD_S
        if rng.random() < 0.5:
            await asyncio.sleep(pause)
            return work(*args)
        try:
            return work(*args)
        finally:
            await asyncio.sleep(pause)

    return offload


@cache
def builder(name: str) -> Build:
    """The builder that an entry point of the group `msrt.nodes` names."""
    for entry in entry_points(group="msrt.nodes", name=name):
        build: Build = entry.load()
        return build
    raise NotFound(f"no kind of node is called {name}", hint="install the extra that brings it")
