"""Random fault schedules: which node dies when, for how long, and what the weather does meanwhile. From a seed."""

from __future__ import annotations

import asyncio
import itertools
import random  # noqa: TID251 - the type of the seeded source
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from msrt.world.network import CALM, Faults
from msrt.world.simulation import Simulation

__all__ = ["KINDS", "Fault", "play", "random_schedule"]

KINDS: Final = ("crash", "partition", "cut", "stop", "disk_full", "weather")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and is put right again `lasts` seconds later."""

    at: float
    """Seconds from the beginning of the schedule."""
    lasts: float
    kind: str
    """One of KINDS."""
    nodes: tuple[str, ...] = ()
    """Whom it strikes: one node, or one side of a partition, or the sender of a cut."""
    others: tuple[str, ...] = ()
    """The other side."""
    weather: Faults = CALM


def random_schedule(
    rng: random.Random,
    nodes: Sequence[str],
    duration: float,
    *,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    mortal: Sequence[str] | None = None,
) -> list[Fault]:
    """Faults in order of time, all of them over after `duration` seconds.

    `nodes` may be cut off from each other; `mortal` (default: all of them) may also be killed, stopped, or run out
    of disk. `count` defaults to something between 1 and 6.
    """
    mortal = nodes if mortal is None else mortal
    faults = []
    for _ in range(rng.randint(1, 6) if count is None else count):
        at = rng.uniform(0, duration * 0.8)
        lasts = min(duration - at, rng.choice((0.2, 1.0, 3.0, 8.0)) * rng.uniform(0.5, 1.5))
        faults.append(_random_fault(rng, rng.choice(kinds), at, lasts, nodes, mortal))
    return sorted(faults, key=lambda fault: fault.at)


async def play(sim: Simulation, schedule: Sequence[Fault]) -> None:
    """Let a schedule happen to a simulation; returns when all of it is over and everyone runs again."""
    calm, began, order = sim.network.faults, sim.now, itertools.count()
    steps: list[tuple[float, int, Callable[[], None]]] = []
    for fault in schedule:
        strike, mend = _steps(sim, fault, calm)
        steps += [(fault.at, next(order), strike), (fault.at + fault.lasts, next(order), mend)]
    for at, _, step in sorted(steps, key=lambda entry: entry[:2]):
        await asyncio.sleep(max(0.0, began + at - sim.now))
        step()
    await asyncio.sleep(0)  # who was restarted last is built now


def _random_fault(
    rng: random.Random, kind: str, at: float, lasts: float, nodes: Sequence[str], mortal: Sequence[str]
) -> Fault:
    match kind:
        case "partition":
            side = rng.sample(list(nodes), rng.randint(1, max(1, len(nodes) // 2)))
            return Fault(at, lasts, kind, tuple(side), tuple(node for node in nodes if node not in side))
        case "cut":
            source, target = rng.sample(list(nodes), 2)
            return Fault(at, lasts, kind, (source,), (target,))
        case "weather":
            weather = Faults(
                delay=rng.choice((0.001, 0.02, 0.1)),
                jitter=rng.choice((0.0005, 0.02, 0.2)),
                loss=rng.choice((0.0, 0.02, 0.1, 0.3)),
                duplicate=rng.choice((0.0, 0.05, 0.2)),
                reorder=rng.choice((0.0, 0.05, 0.2)),
            )
            return Fault(at, lasts, kind, weather=weather)
        case _:
            return Fault(at, lasts, kind, (rng.choice(list(mortal)),))


def _steps(sim: Simulation, fault: Fault, calm: Faults) -> tuple[Callable[[], None], Callable[[], None]]:
    """What begins a fault and what ends it."""
    match fault.kind:
        case "crash":
            return partial(sim.crash, fault.nodes[0]), partial(sim.restart, fault.nodes[0])
        case "stop":
            return partial(sim.stop, fault.nodes[0]), partial(sim.cont, fault.nodes[0])
        case "disk_full":
            return partial(sim.disk_full, fault.nodes[0], full=True), partial(sim.disk_full, fault.nodes[0], full=False)
        case "partition":
            sides = (fault.nodes, fault.others)
            return partial(sim.partition, *sides), partial(sim.heal, *sides)
        case "cut":
            sides = (fault.nodes, fault.others)
            return partial(sim.cut, *sides), partial(sim.heal, *sides)
        case "weather":
            return partial(sim.weather, fault.weather), partial(sim.weather, calm)
        case _:
            raise ValueError(f"no such fault: {fault.kind}")
