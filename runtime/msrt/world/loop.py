"""An event loop whose time is a number: when nothing is ready it jumps to the next timer.

Every callback belongs to the process (one life of one node) in whose context it was scheduled, or to nobody. That is
what lets a simulation stop a node, go on later, or kill it, without the node knowing of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import selectors
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVarTuple

from msrt.errors import LocalError

__all__ = ["Deadlock", "Livelock", "OutOfTime", "Process", "VirtualLoop", "current_process"]

_Ts = TypeVarTuple("_Ts")
STEP_S: Final = 1e-6
"""A timer for now or earlier fires this much later: on a real machine, too, a turn of the loop takes time."""
MOMENT_S: Final = 1e-3
MAX_TURNS: Final = 20_000
"""Turns of the loop in one moment of virtual time, beyond which nobody believes that it will go on."""
REAP_ROUNDS: Final = 50
"""How often a killed task that swallows its cancellation is cancelled again."""


class Deadlock(LocalError):
    """Everyone waits and nothing is scheduled that could wake them."""

    code = "deadlock"


class Livelock(LocalError):
    """Time stands still, or nearly: callbacks go on scheduling callbacks for now."""

    code = "livelock"


class OutOfTime(LocalError):
    """The simulation reached its limit of virtual time."""

    code = "out_of_time"


class Process:
    """One life of a node. Its tasks, timers and deliveries run while it is neither stopped nor dead."""

    def __init__(self, name: str, life: int, loop: VirtualLoop) -> None:
        self.name, self.life = name, life
        self.dead = False
        self.stopped = False
        self.silent = False
        """Died without a word: its host does not even refuse connections."""
        self.held: list[asyncio.Handle] = []
        """What became due while it was stopped, in order."""
        self.context = contextvars.copy_context()
        self.context.run(_current.set, self)
        self._loop = loop
        self._tasks: list[weakref.ref[asyncio.Task[Any]]] = []
        self._compact_at = 64

    def run(self, work: Callable[..., object], *args: Any) -> None:
        """Call into the node from outside it, as a packet does: held while stopped, nothing once dead."""
        if self.dead:
            return
        if self.stopped:
            self._loop.call_soon(work, *args, context=self.context)
        else:
            self.context.run(work, *args)

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def cont(self) -> None:
        """SIGCONT: what was held runs next, in the order in which it became due."""
        self.stopped = False
        held, self.held = self.held, []
        self._loop.resume(held)

    def kill(self) -> None:
        """SIGKILL: timers never fire again, tasks are cancelled until they are gone. The caller muted the World."""
        self.dead = True
        self.cont()
        self._reap(REAP_ROUNDS)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        if len(self._tasks) >= self._compact_at:
            self._tasks = [ref for ref in self._tasks if ref() is not None]
            self._compact_at = max(64, 2 * len(self._tasks))
        self._tasks.append(weakref.ref(task))
        if self.dead:
            task.add_done_callback(_retrieve)
            task.cancel()

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Those not done, oldest first."""
        found = [ref() for ref in self._tasks]
        return [task for task in found if task is not None and not task.done()]

    def _reap(self, rounds: int) -> None:
        tasks = self.tasks()
        for task in tasks:
            if rounds == REAP_ROUNDS:
                task.add_done_callback(_retrieve)
            task.cancel()
        if tasks and rounds:
            self._loop.call_soon(self._reap, rounds - 1, context=self._loop.outside)


_current: ContextVar[Process | None] = ContextVar("msrt.world.process", default=None)


def current_process() -> Process | None:
    """Whose code is running now."""
    return _current.get()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """The last words of a killed task are nobody's business."""
    if not task.cancelled():
        task.exception()


class _Soon(asyncio.Handle):
    """A callback of a process."""

    __slots__ = ("process",)
    process: Process

    def _run(self) -> None:
        if self.process.stopped:
            self.process.held.append(self)
        else:
            super()._run()


class _Timer(asyncio.TimerHandle):
    """A timer of a process or of nobody; timers of one moment fire in the order in which they were set."""

    __slots__ = ("due", "order", "process")
    due: float
    order: int
    process: Process | None
    _scheduled: bool  # asyncio's: whether it is in the heap

    def place(self, order: int, process: Process | None) -> None:
        self.due, self.order, self.process = self.when(), order, process
        self._scheduled = True

    def __lt__(self, other: _Timer) -> bool:  # type: ignore[override]  # the heap holds no other kind
        return self.due < other.due or (self.due == other.due and self.order < other.order)

    def _run(self) -> None:
        process = self.process
        if process is not None:
            if process.dead:
                return
            if process.stopped:
                process.held.append(self)
                return
        super()._run()


class _TimeSelector(selectors.BaseSelector):
    """Waits by moving the clock. Files may be registered (asyncio's self-pipe is) and are never ready."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop is not None:
            self.loop.turn()
            if timeout != 0:
                self.loop.jump(nothing_to_do=timeout is None)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual time from 0. The same calls in the same order give the same run."""

    _ready: deque[asyncio.Handle]  # asyncio's own two queues
    _scheduled: list[_Timer]

    def __init__(self) -> None:
        selector = _TimeSelector()
        self._now = self._moment = 0.0
        self._turns = 0
        super().__init__(selector)
        selector.loop = self
        self.outside = contextvars.copy_context()
        """The context of the network and of fate: nobody's process."""
        self.outside.run(_current.set, None)
        self.limit = float("inf")
        """Virtual time that must not be passed."""
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def turn(self) -> None:
        """Count turns of the loop in one moment. Called by the selector at each."""
        if self._now - self._moment > MOMENT_S:
            self._moment, self._turns = self._now, 0
        self._turns += 1
        if self._turns > MAX_TURNS:
            self._turns = 0
            handles = [*itertools.islice(self._ready, 3), *self._scheduled[:1]]
            waiting = "; ".join(map(str, handles))
            raise Livelock(f"{MAX_TURNS} turns at {self._now:.6f} s, and still to do: {waiting}")

    def jump(self, *, nothing_to_do: bool) -> None:
        """Move the clock to the next timer. Called by the selector when nothing is ready."""
        if nothing_to_do:
            raise Deadlock(f"nothing is scheduled at {self._now:.6f} s and nobody is done")
        due = self._scheduled[0].due
        if due > self.limit:
            self._now = self.limit
            raise OutOfTime(f"not done after {self.limit:g} s of virtual time")
        self._now = max(self._now, due)

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        process = _current.get() if context is None else context.get(_current)
        if process is None:
            handle = asyncio.Handle(callback, args, self, context)
        else:
            handle = owned = _Soon(callback, args, self, context)
            owned.process = process
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)  # there are no threads

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(max(when, self._now + STEP_S), callback, args, self, context)
        process = _current.get() if context is None else context.get(_current)
        timer.place(next(self._order), process)
        heapq.heappush(self._scheduled, timer)
        return timer

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Run handles that were held."""
        self._ready.extend(handles)

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, name=None if name is None else str(name), context=context)
        process = _current.get() if context is None else context.get(_current)
        if process is not None:
            process.adopt(task)
        return task

    def run_in_executor(self, *_args: Any) -> Any:  # type: ignore[override]
        """There are no threads in virtual time."""
        raise RuntimeError("a simulated node asked for a thread: use World.offload")

    def finish(self, coroutine: Coroutine[Any, Any, Any], until: float | None = None) -> Any:
        """Run a coroutine, outside of all processes, at most until a moment of virtual time."""
        self.limit = float("inf") if until is None else until
        task = asyncio.Task(coroutine, loop=self, context=self.outside.copy())
        try:
            return self.run_until_complete(task)
        except BaseException:
            self.limit = float("inf")
            if not task.done():
                task.add_done_callback(_retrieve)
                task.cancel()
                self.settle()
            raise

    def settle(self) -> None:
        """Run what is ready, without letting time pass."""
        for _ in range(REAP_ROUNDS + 2):
            self.call_soon(self.stop, context=self.outside)
            self.run_forever()
            if not self._ready:
                return
