"""Where a client's requests are until they are settled: who is asked, who is asked next, and when it is too late.

Requests made in one turn of the event loop leave together. A front that goes down has its open requests asked
elsewhere at once, under the same id; the first answer counts. A sequence's requests stay where the sequence is.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterable
from typing import Final
from weakref import WeakSet

from msrt.client.front import Front
from msrt.client.pin import Pin
from msrt.client.request import Answer, Request, Waiter
from msrt.client.spin import Spin
from msrt.errors import (
    CallerError,
    DeadlineExceeded,
    Disconnected,
    InvalidTensor,
    MsrtError,
    NotFound,
    Overloaded,
    SequenceLost,
    Unavailable,
)

__all__ = ["NEARER", "Core"]

TICK_S: Final = 0.05
"""How exactly deadlines are kept."""
REPEAT_S: Final = 2.0
"""After so long without a word a forgetful one is asked again: it drops what it is at work on already."""
PAUSE_MAX_S: Final = 0.5
PASSING: Final = (Overloaded, Unavailable, Disconnected)
"""Worth another try, elsewhere or later."""
NEARER: Final = 0.5
NEARER_BY_S: Final = 0.001
"""Another edge is asked instead when it takes less than this share of the time, and that is more than this."""


class Core:
    """All requests of one client. Lives in one event loop; what it decides needs no more than its time."""

    def __init__(self, spin_s: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._spin = Spin(self._loop, lambda: bool(self._open), spin_s) if spin_s > 0 else None
        self.fronts: list[Front] = []
        self.current: Front | None = None
        """Who is asked while it can be."""
        self.came = asyncio.Event()
        """Set whenever a front comes up."""
        self.pins: WeakSet[Pin] = WeakSet()
        """Sequences that have begun."""
        self.hopeless: MsrtError | None = None
        """Why nobody will ever answer."""
        self._open: dict[int, Request] = {}
        self._arrived: list[Request] = []
        self._due_at = math.inf
        """No request is due before."""
        self._ticking = False
        self._next = int.from_bytes(os.urandom(6), "big") << 14
        self._solitary: set[str] = set()
        """Models whose requests cannot ride together."""

    def next_id(self) -> int:
        """A request id of this client."""
        self._next += 1
        return self._next

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    def submit(self, requests: Iterable[Request]) -> None:
        """Ask at the end of this turn of the loop."""
        now = self._loop.time()
        for request in requests:
            request.since = now
            same = self._open.get(request.id)
            if same is not None:
                same.more.append((request.waiter, request.index))
                continue
            self._open[request.id] = request
            if self._solitary and request.ask.model in self._solitary:
                request.alone = True
            self._later(request)

    def abandon(self, waiter: Waiter, idents: Iterable[int] | None = None) -> None:
        """Nobody waits for what this one asked, under these ids: the edges are told."""
        gone: dict[Front, list[int]] = {}
        for ident in list(self._open) if idents is None else idents:
            request = self._open.get(ident)
            if request is None:
                continue
            request.more = [(other, index) for other, index in request.more if other is not waiter]
            if request.waiter is not waiter:
                continue
            if request.more:
                (request.waiter, request.index), *request.more = request.more
                continue
            del self._open[request.id]
            request.done = True
            if request.front is not None:
                gone.setdefault(request.front, []).append(request.id)
        for front, mine in gone.items():
            front.cancel(mine)

    def _later(self, request: Request) -> None:
        if not self._arrived:
            self._loop.call_soon(self._flush)
        request.again_at = math.inf  # until it is on its way
        self._arrived.append(request)

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        groups: dict[Front | None, list[Request]] = {}
        now = self._loop.time()
        for request in arrived:
            if not request.done:
                front = self._choose(request)
                if front is None and request.pin is not None and request.pin.front is not None:
                    self._settle(request, request.pin.lose("its edge is away"))
                    continue
                request.front = front
                again = front is None or (front.forgetful and request.pin is None)  # a step is never said twice
                request.again_at = now + REPEAT_S if again else math.inf
                groups.setdefault(front, []).append(request)
                self._watch(request)
        if self._spin is not None and groups:
            self._spin.asked()
        for front, requests in groups.items():
            if front is not None:
                front.send(requests)
            elif self.hopeless is not None:
                for request in requests:
                    self._settle(request, self.hopeless)

    def _choose(self, request: Request) -> Front | None:
        pin = request.pin
        if pin is not None and pin.front is not None:
            return pin.front if pin.front.live else None
        current = self.current
        if current is not None and current.live and current not in request.tried:
            return current
        for front in sorted(self.fronts, key=_latency):
            if front.live and front not in request.tried:
                if current is None or not current.live:
                    self.current = front
                return front
        return None

    def prefer_nearest(self) -> None:
        """Ask another from now on, if it is a good deal nearer."""
        live = [front for front in self.fronts if front.live]
        nearest = min(live, key=_latency, default=None)
        current = self.current
        if nearest is None or current is None or not current.live or math.isinf(nearest.latency_s):
            return
        if nearest.latency_s < min(NEARER * current.latency_s, current.latency_s - NEARER_BY_S):
            self.current = nearest

    def idle(self, front: Front) -> bool:
        """Nobody waits for an answer of this one, and no sequence lives there."""
        pinned = any(pin.front is front and pin.lost is None for pin in self.pins)
        return not pinned and not any(request.front is front for request in self._open.values())

    # --- what fronts say (see Owner)

    def answered(self, ident: int, answer: Answer, front: Front) -> None:
        """The first answer counts."""
        request = self._open.get(ident)
        if request is None:
            return
        if request.pin is not None:
            request.pin.front = front
            self.pins.add(request.pin)
        if request.error is not None and isinstance(request.error, InvalidTensor):
            self._solitary.add(request.ask.model)  # wrong in company, right alone: this model's rows are fixed
        answer.request_id, answer.seconds = ident, self._loop.time() - request.since
        self._settle(request, answer)

    def failed(self, ident: int, error: MsrtError, front: Front, retry_after: float = 0.0) -> None:
        """Ask another one, or again later, or give up, as the error says."""
        request = self._open.get(ident)
        if request is None or request.front is not front:
            return
        pin = request.pin
        if pin is not None and pin.front is None and isinstance(error, SequenceLost):
            error = Unavailable(error.text)  # its worker died under the first step: nothing was begun
        request.error = error
        request.tried += (front,)
        if isinstance(error, PASSING) and front is self.current:
            self.current = None  # whoever answers this one is asked first from now on
        if pin is not None and pin.front is not None:
            self._failed_in_sequence(request, error, retry_after)
        elif isinstance(error, InvalidTensor) and not request.alone:  # it may have been the company
            request.alone = True
            request.tried = tuple([other for other in request.tried if other is not front])
            self._later(request)
        elif isinstance(error, (*PASSING, NotFound)) and self._choose(request) is not None:
            self._later(request)
        elif isinstance(error, PASSING):
            self._pause(request, retry_after)
        else:
            self._settle(request, error)

    def _failed_in_sequence(self, request: Request, error: MsrtError, retry_after: float) -> None:
        """What was refused can be said again, there; what may have been done cannot."""
        assert request.pin is not None
        if isinstance(error, Overloaded):
            self._pause(request, retry_after)
        elif isinstance(error, Disconnected):
            self._settle(request, request.pin.lose("its edge went away"))
        else:
            self._settle(request, error)

    def up(self, front: Front) -> None:
        """Ask it what waits for anybody."""
        self.hopeless = None
        self.came.set()
        for request in self._open.values():
            if front in request.tried:
                request.tried = tuple([other for other in request.tried if other is not front])
            if request.front is None and request.error is None:
                self._later(request)

    def down(self, front: Front) -> None:
        """Ask others what it was asked."""
        if self.current is front:
            self.current = None
        for request in [request for request in self._open.values() if request.front is front]:
            request.front = None
            if request.pin is not None and request.pin.front is not None:
                self._settle(request, request.pin.lose("its edge went away"))
            else:
                self._later(request)

    def give_up(self, error: MsrtError) -> None:
        """Nobody will ever answer: fail what waits, and what comes, until somebody is up."""
        self.hopeless = error
        for request in list(self._open.values()):
            if request.front is None:
                self._settle(request, error)

    def close(self) -> None:
        """Fail what is open."""
        for request in list(self._open.values()):
            self._settle(request, Disconnected("the client was closed"))

    # --- time

    def _pause(self, request: Request, retry_after: float) -> None:
        """All have been asked: in a moment they are asked again."""
        request.front = None
        request.tried = ()
        wait = max(request.pause, min(retry_after, PAUSE_MAX_S))
        request.pause = min(request.pause * 2, PAUSE_MAX_S)
        request.again_at = self._loop.time() + wait
        self._watch(request)

    def _watch(self, request: Request) -> None:
        self._due_at = min(self._due_at, request.deadline, request.again_at)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Most often nothing is due: the open requests are only looked through when one of them may be."""
        now = self._loop.time()
        if now >= self._due_at:
            self._look_through(now)
        self._ticking = bool(self._open)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)

    def _look_through(self, now: float) -> None:
        late: dict[Front, list[int]] = {}
        due_at = math.inf
        for request in list(self._open.values()):
            if now >= request.deadline:
                if request.front is not None:
                    late.setdefault(request.front, []).append(request.id)
                self._settle(request, request.error or self.late())
            elif now >= request.again_at:
                self._later(request)
            else:
                due_at = min(due_at, request.deadline, request.again_at)
        self._due_at = due_at
        for front, idents in late.items():
            front.cancel(idents)

    def late(self) -> MsrtError:
        """What is told at a deadline: an edge was there and did not answer, or none was, and why."""
        if any(front.live for front in self.fronts):
            return DeadlineExceeded("no answer within the deadline")
        text, hint = "no edge could be reached within the deadline", "is one running?"
        why = next((front.away for front in self.fronts if front.away is not None), None)
        return Disconnected(f"{text}: {why.text}", hint=why.hint or hint) if why else Disconnected(text, hint=hint)

    def _settle(self, request: Request, result: Answer | MsrtError) -> None:
        if self._open.pop(request.id, None) is None:
            return
        request.done = True
        if request.pin is not None:
            _tell_pin(request, result)
        request.waiter.settled(request.index, result)
        for waiter, index in request.more:
            waiter.settled(index, result)


def _latency(front: Front) -> float:
    return front.latency_s


def _tell_pin(request: Request, result: Answer | MsrtError) -> None:
    """A step of which nobody knows whether it was taken ends a sequence; one that was refused does not."""
    assert request.pin is not None
    if isinstance(result, SequenceLost):
        request.pin.lost = request.pin.lost or result
    elif not isinstance(result, Answer | CallerError | Overloaded):
        request.pin.lose("nobody knows whether its last step was taken")
