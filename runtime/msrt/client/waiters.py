"""Who waits for answers: for one, for all of many, or for each as it comes. No task and no future per request."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from msrt.client.request import Answer
from msrt.errors import DeadlineExceeded, MsrtError

__all__ = ["All", "Blocked", "One", "Window"]


class One:
    """One answer."""

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Answer] = loop.create_future()

    def settled(self, _index: int, result: Answer | MsrtError) -> None:
        if self.future.done():
            return
        if isinstance(result, Answer):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)


class Blocked:
    """One answer, for a thread that has no loop: woken the moment it is there."""

    __slots__ = ("_come", "_result")

    def __init__(self) -> None:
        self._come = threading.Lock()
        self._come.acquire()
        self._result: Answer | MsrtError | None = None

    def settled(self, _index: int, result: Answer | MsrtError) -> None:
        if self._result is None:
            self._result = result
            self._come.release()

    def wait(self, timeout_s: float) -> Answer:
        """Raises what came instead, and DeadlineExceeded where nothing came."""
        if not self._come.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
            raise DeadlineExceeded("no answer within the deadline")
        if isinstance(self._result, Answer):
            return self._result
        assert self._result is not None
        raise self._result


class All:
    """All of so many, in the order in which they were asked."""

    __slots__ = ("future", "left", "results")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.results: list[Answer | MsrtError | None] = [None] * count
        self.left = count
        if not count:
            self.future.set_result(None)

    def settled(self, index: int, result: Answer | MsrtError) -> None:
        if isinstance(result, Answer):
            result.index = index
        self.results[index] = result
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)


class Window:
    """Answers as they are to be given out: in the order of the questions, or as they come. Pure.

    `room` says how many more may be asked: what was answered and not yet taken counts, so a slow reader slows all.
    """

    __slots__ = ("_early", "_next", "_ready", "asked", "ordered", "size", "taken")

    def __init__(self, size: int, *, ordered: bool) -> None:
        self.size, self.ordered = size, ordered
        self.asked = self.taken = self._next = 0
        self._early: dict[int, Answer | MsrtError] = {}
        self._ready: deque[Answer | MsrtError] = deque()

    @property
    def room(self) -> int:
        return self.size - (self.asked - self.taken)

    @property
    def open(self) -> bool:
        """Something that was asked was not taken yet."""
        return self.taken < self.asked

    def ask(self) -> int:
        """The number of the next question."""
        self.asked += 1
        return self.asked - 1

    def put(self, index: int, result: Answer | MsrtError) -> None:
        if isinstance(result, Answer):
            result.index = index
        if not self.ordered:
            self._ready.append(result)
            return
        self._early[index] = result
        while self._next in self._early:
            self._ready.append(self._early.pop(self._next))
            self._next += 1

    def take(self) -> Answer | MsrtError | None:
        """The next one that may be given out, None while there is none."""
        if not self._ready:
            return None
        self.taken += 1
        return self._ready.popleft()
