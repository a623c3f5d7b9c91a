"""Waiting awake: while answers are owed the loop looks again at once, instead of sleeping until the kernel wakes it.

To be woken costs a caller tens of microseconds, and on a virtual machine more, for another core has to be called and
the caches are somebody else's by then. Who has a core to spare buys that time with it; see Barroso, Marty, Patterson,
Ranganathan: Attack of the killer microseconds (2017).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["Spin"]

REST: Final = 512
"""Requests, at most, that are waited for asleep after some for which waiting awake was in vain."""


class Spin:
    """Keeps a loop awake for `most_s` seconds a time while somebody `waits`; the loop's clock counts milliseconds.

    In vain once: the next request is waited for asleep, then two, then four, for an answer that takes longer gains
    nothing and would cost a core.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, waits: Callable[[], bool], most_s: float) -> None:
        self._loop, self._waits, self._most_s = loop, waits, most_s
        self._until = 0.0
        self._awake = False
        self._pause, self._left = 0, 0

    def asked(self) -> None:
        """Something is on its way."""
        if self._left:
            self._left -= 1
            return
        self._until = self._loop.time() + self._most_s
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if not self._waits():
            self._awake, self._pause = False, 0
        elif self._loop.time() >= self._until:
            self._awake = False
            self._pause = self._left = min(2 * self._pause or 1, REST)
        else:
            self._loop.call_soon(self._look)
