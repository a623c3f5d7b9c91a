"""Where a client's requests are until they are settled: who is asked, who is asked next, and when it is too late.

Requests made in one turn of the event loop leave together. A front that goes down has its open requests asked
elsewhere at once, under the same id; the first answer counts.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from msrt.client.front import Front
from msrt.client.request import Answer, Request
from msrt.errors import DeadlineExceeded, Disconnected, InvalidTensor, MsrtError, NotFound, Overloaded, Unavailable

__all__ = ["Core"]

TICK_S: Final = 0.05
"""How exactly deadlines are kept."""
REPEAT_S: Final = 2.0
"""After so long without a word the same one is asked again: it drops what it is at work on already."""
PAUSE_MAX_S: Final = 0.5
PASSING: Final = (Overloaded, Unavailable, Disconnected)
"""Worth another try, elsewhere or later."""


class Core:
    """All requests of one client. Lives in one event loop; what it decides needs no more than its time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.fronts: list[Front] = []
        self.current: Front | None = None
        """Who is asked while it can be."""
        self.hopeless: MsrtError | None = None
        """Why nobody will ever answer."""
        self._open: dict[int, Request] = {}
        self._arrived: list[Request] = []
        self._slots: dict[int, list[Request]] = {}
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

    def submit(self, request: Request) -> asyncio.Future[Answer]:
        """Ask at the end of this turn of the loop."""
        if request.id in self._open:
            return self._open[request.id].future
        self._open[request.id] = request
        request.alone = request.alone or request.model in self._solitary
        request.future.add_done_callback(lambda done: self._abandoned(request) if done.cancelled() else None)
        self._later(request)
        return request.future

    def _later(self, request: Request) -> None:
        if not self._arrived:
            self._loop.call_soon(self._flush)
        self._arrived.append(request)

    def _flush(self) -> None:
        arrived, self._arrived = self._arrived, []
        groups: dict[Front | None, list[Request]] = {}
        now = self._loop.time()
        for request in arrived:
            if not request.future.done():
                groups.setdefault(self._choose(request), []).append(request)
        for front, requests in groups.items():
            for request in requests:
                request.front = front
                request.again_at = now + REPEAT_S
                self._watch(request)
            if front is not None:
                front.send(requests)
            elif self.hopeless is not None:
                for request in requests:
                    self._fail(request, self.hopeless)

    def _choose(self, request: Request) -> Front | None:
        current = self.current
        if current is not None and current.live and current not in request.tried:
            return current
        for front in self.fronts:
            if front.live and front not in request.tried:
                if current is None or not current.live:
                    self.current = front
                return front
        return None

    # --- what fronts say (see Owner)

    def answered(self, ident: int, answer: Answer) -> None:
        """The first answer counts."""
        request = self._open.pop(ident, None)
        if request is not None and not request.future.done():
            request.future.set_result(answer)
            if isinstance(request.error, InvalidTensor):  # wrong in company, right alone: this model's rows are fixed
                self._solitary.add(request.model)

    def failed(self, ident: int, error: MsrtError, front: Front, retry_after: float = 0.0) -> None:
        """Ask another one, or again later, or give up, as the error says."""
        request = self._open.get(ident)
        if request is None or request.front is not front:
            return
        request.error = error
        request.tried.add(front)
        if isinstance(error, PASSING) and front is self.current:
            self.current = None  # whoever answers this one is asked first from now on
        if isinstance(error, InvalidTensor) and not request.alone:  # it may have been the company
            request.alone = True
            request.tried.discard(front)
            self._later(request)
        elif isinstance(error, (*PASSING, NotFound)) and self._choose(request) is not None:
            self._later(request)
        elif isinstance(error, PASSING):
            self._pause(request, retry_after)
        else:
            self._fail(request, error)

    def up(self, front: Front) -> None:
        """Ask it what waits for anybody."""
        self.hopeless = None
        for request in self._open.values():
            request.tried.discard(front)
            if request.front is None and request.error is None:
                self._later(request)

    def down(self, front: Front) -> None:
        """Ask others what it was asked."""
        if self.current is front:
            self.current = None
        for request in self._open.values():
            if request.front is front:
                request.front = None
                self._later(request)

    def give_up(self, error: MsrtError) -> None:
        """Nobody will ever answer: fail what waits, and what comes, until somebody is up."""
        self.hopeless = error
        for request in list(self._open.values()):
            if request.front is None:
                self._fail(request, error)

    def close(self) -> None:
        """Fail what is open."""
        for request in list(self._open.values()):
            self._fail(request, Disconnected("the client was closed"))

    # --- time

    def _pause(self, request: Request, retry_after: float) -> None:
        """All have been asked: in a moment they are asked again."""
        request.front = None
        request.tried.clear()
        wait = max(request.pause, min(retry_after, PAUSE_MAX_S))
        request.pause = min(request.pause * 2, PAUSE_MAX_S)
        request.again_at = self._loop.time() + wait
        self._watch(request)

    def _watch(self, request: Request) -> None:
        slot = int(min(request.deadline, request.again_at) / TICK_S) + 1
        self._slots.setdefault(slot, []).append(request)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        for slot in sorted(slot for slot in self._slots if slot * TICK_S <= now):
            for request in self._slots.pop(slot):
                if not request.future.done():
                    self._due(request, now)
        self._ticking = bool(self._slots)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)

    def _due(self, request: Request, now: float) -> None:
        if now >= request.deadline:
            self._fail(request, request.error or self._late())
        elif now >= request.again_at:
            self._later(request)
        # else it was asked again meanwhile, and is watched in a later slot too

    def _late(self) -> MsrtError:
        if any(front.live for front in self.fronts):
            return DeadlineExceeded("no answer within the deadline")
        return Disconnected("no edge could be reached within the deadline", hint="is one running?")

    def _fail(self, request: Request, error: MsrtError) -> None:
        self._open.pop(request.id, None)
        if not request.future.done():
            request.future.set_exception(error)

    def _abandoned(self, request: Request) -> None:
        if self._open.pop(request.id, None) is not None and request.front is not None:
            request.front.cancel(request.id)
