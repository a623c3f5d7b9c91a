"""Whole trees in one process under virtual time: nodes with worlds of their own, and the hand of fate over them.

    with Simulation(seed=7) as sim:
        sim.add("cloud", "cloud", config)          # by entry point, or by a function build(world, config) -> Node
        sim.add("edge-1", build_edge, config)

        async def scenario() -> None:
            await asyncio.sleep(5)
            sim.crash("edge-1")
            await asyncio.sleep(2)
            sim.restart("edge-1")

        sim.run(scenario(), until=60)

The same seed gives the same run, byte for byte in `log_bytes()`. A failure carries the line that replays it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msrt.errors import NotFound
from msrt.links.memory import MemoryLinks
from msrt.world.eventlog import EventLog
from msrt.world.loop import Process, VirtualLoop
from msrt.world.memory import MemoryDisk
from msrt.world.network import CALM, Faults, Network
from msrt.world.seat import Build, Node, Seat, builder, inline, seeded
from msrt.world.world import World

__all__ = ["WALL_START", "Build", "Node", "Simulation", "seeds"]

T = TypeVar("T")
WALL_START: Final = 1_767_225_600.0
"""Every simulation begins at 2026-01-01T00:00:00Z."""


class Simulation:
    """A tree, its network and its time. Use it in a `with`; call `run` as often as needed."""

    def __init__(self, seed: int, faults: Faults = CALM) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._unhandled)
        self.rng = seeded(seed, "scenario")
        """For the scenario's own choices."""
        self.events = EventLog(self.loop)
        self.record = self.events.record
        """record(event, **keys): add a line to the log."""
        self.network = Network(self.loop, seeded(seed, "network"), faults)
        self._seats: dict[str, Seat] = {}
        self._failure: BaseException | None = None
        self._failed: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    @property
    def replay_hint(self) -> str:
        """How to see this run again, where the test takes its seeds from `seeds`."""
        return f"replay this run alone with MSRT_SEED={self.seed}"

    # --- the tree

    def add(self, name: str, build: Build | str, config: Any = None) -> None:
        """Put a node in and start it. A string names an entry point of the group `msrt.nodes`."""
        self._seat(name, builder(build) if isinstance(build, str) else build, config)
        self._start(self._seats[name])

    def world(self, name: str) -> World:
        """The world of a node's present life; of a new seat without a node, for the scenario's own use."""
        if name not in self._seats:
            self._seat(name, None, None)
        return self._seats[name].world

    def node(self, name: str) -> Any:
        """What `build` made, in its present life; None while down, and until the loop turned after a start."""
        return self._at(name).node

    def names(self) -> list[str]:
        return list(self._seats)

    def alive(self, name: str) -> bool:
        return not self._at(name).process.dead

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a part of that node: it is stopped and killed with it."""
        return self.loop.create_task(work, context=self._at(name).process.context)

    # --- fate

    def crash(self, name: str) -> None:
        """SIGKILL: the node says no more, what it had not committed is lost. Nothing if it is down."""
        seat = self._at(name)
        if not seat.process.dead:
            self.record("fate.crash", node=name)
            self.network.crashed(seat.process)
            seat.disk = seat.disk.crash()
            seat.process.kill()
            seat.node = None

    def restart(self, name: str, config: Any = None) -> None:
        """Start a crashed node again on its disk, with another config if given. Nothing if it runs."""
        seat = self._at(name)
        if seat.process.dead:
            self.record("fate.restart", node=name)
            seat.config = seat.config if config is None else config
            seat.process, seat.world = self._life(name, seat.disk, seat.process.life + 1)
            self._start(seat)

    def stop(self, name: str) -> None:
        """SIGSTOP: packets and timers wait; time goes on."""
        if self.alive(name):
            self.record("fate.stop", node=name)
            self._at(name).process.stop()

    def cont(self, name: str) -> None:
        """SIGCONT."""
        if self._at(name).process.stopped:
            self.record("fate.cont", node=name)
            self._at(name).process.cont()

    def disk_full(self, name: str, full: bool = True) -> None:  # noqa: FBT001, FBT002 - reads well: disk_full("edge", False)
        self.record("fate.disk_full", node=name, full=full)
        self._at(name).disk.full = full

    def partition(self, left: str | Iterable[str], right: str | Iterable[str]) -> None:
        """Cut two nodes, or groups, off from each other; nobody is told."""
        left, right = _group(left), _group(right)
        self.record("fate.partition", left=left, right=right)
        self.network.partition(left, right)

    def cut(self, source: str | Iterable[str], target: str | Iterable[str]) -> None:
        """Let nothing pass from one to the other; the way back stays open."""
        source, target = _group(source), _group(target)
        self.record("fate.cut", source=source, target=target)
        self.network.cut(source, target)

    def heal(self, left: str | Iterable[str] = (), right: str | Iterable[str] = ()) -> None:
        """Undo the cuts between two groups, or all of them."""
        left, right = _group(left), _group(right)
        self.record("fate.heal", left=left, right=right)
        self.network.heal(left, right)

    def weather(self, faults: Faults) -> None:
        """Change the network's faults everywhere."""
        self.record("fate.weather", faults=faults)
        self.network.weather(faults)

    def skew(self, name: str, seconds: float) -> None:
        """Set a node's wall clock off."""
        self._at(name).skew_s = seconds

    # --- running

    def run(self, scenario: Coroutine[Any, Any, T], until: float | None = None) -> T:
        """Run the scenario to its end and return what it returns.

        Raises OutOfTime when virtual time passes `until`, Deadlock when nothing can ever happen again, and whatever
        a node's `run` raises.
        """
        with self.events.capturing():
            try:
                result: T = self.loop.finish(self._guarded(scenario), until)
            except BaseException as error:
                error.add_note(self.replay_hint)
                raise
        return result

    def log_bytes(self) -> bytes:
        """The event log, and what the network carried."""
        counts = " ".join(f"{key}={value}" for key, value in self.network.counts.items())
        return "\n".join([*self.events.lines(), f"{self.now:.6f} network {counts}", ""]).encode()

    def close(self) -> None:
        """Kill all nodes and close the loop."""
        if self.loop.is_closed():
            return
        with self.events.capturing():
            for seat in self._seats.values():
                self.network.crashed(seat.process)
                seat.disk.dead = True
                seat.process.kill()
            self.loop.settle()
        self.loop.close()

    # --- within

    def _seat(self, name: str, build: Build | None, config: Any) -> None:
        if name in self._seats:
            raise ValueError(f"there is a node {name} already")
        disk = MemoryDisk(seeded(self.seed, name, "disk"))
        process, world = self._life(name, disk, 0)
        self._seats[name] = Seat(name, build, config, disk, process, world)

    def _at(self, name: str) -> Seat:
        if name not in self._seats:
            raise NotFound(f"no node {name} is in this simulation")
        return self._seats[name]

    def _life(self, name: str, disk: MemoryDisk, life: int) -> tuple[Process, World]:
        process = self.network.lives[name] = Process(name, life, self.loop)
        world = World(
            now=self.loop.time,
            wall=lambda: WALL_START + self.loop.time() + self._seats[name].skew_s,
            random=seeded(self.seed, name, life),
            disk=disk,
            offload=inline(seeded(self.seed, name, life, "offload")),
            links=MemoryLinks(self.network, process),
        )
        return process, world

    def _start(self, seat: Seat) -> None:
        if seat.build is not None:
            self.loop.create_task(self._live(seat, seat.build, seat.process), context=seat.process.context)

    async def _live(self, seat: Seat, build: Build, process: Process) -> None:
        try:
            node = seat.node = build(seat.world, seat.config)
            await node.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the simulation
            error.add_note(f"node {seat.name}, {self.now:.6f} s")
            if not process.dead:
                self._fail(error)
        else:
            self.record("node.ended")

    async def _guarded(self, scenario: Coroutine[Any, Any, T]) -> T:
        """The scenario, ended early by the failure of any node."""
        self._failed = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(scenario)
        try:
            if self._failure is None:
                both: list[asyncio.Future[Any]] = [task, self._failed]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._failed.cancel()
            self._failed = None
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error
        return task.result()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an exception that nobody took."""
        error = context.get("exception")
        process: Process | None = getattr(context.get("handle"), "process", None)
        if error is not None and not (process is not None and process.dead):
            error.add_note(f"asyncio: {context.get('message')}")
            self._fail(error)


def seeds(count: int, first: int = 0) -> list[int]:
    """`count` seeds for a test, or the one that MSRT_SEED names."""
    named = os.environ.get("MSRT_SEED")
    return [int(named)] if named else list(range(first, first + count))


def _group(nodes: str | Iterable[str]) -> tuple[str, ...]:
    return (nodes,) if isinstance(nodes, str) else tuple(nodes)
