"""Small pieces of work for many devices: a few in each turn of the loop, that nothing else waits for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["AT_ONCE", "Turns"]

AT_ONCE: Final = 24
"""Pieces in one turn: to decide on a device and to encode a message for it takes some 60 us."""


class Turns:
    """Pieces in the order in which they were given; where none wait, the first are done at once."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._later: asyncio.Handle | None = None

    def add(self, pieces: Iterable[Callable[[], None]]) -> None:
        """One that raises is the loop's to report; the others go on."""
        self._waiting.extend(pieces)
        if self._later is None:
            self._some()

    def _some(self) -> None:
        try:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._waiting.popleft()()
        finally:
            self._later = asyncio.get_running_loop().call_soon(self._some) if self._waiting else None
