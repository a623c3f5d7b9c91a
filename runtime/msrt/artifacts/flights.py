"""One flight for many passengers: work that several callers want at once is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

__all__ = ["Flights"]


@dataclass
class _Flight:
    task: asyncio.Task[None]
    aboard: int = 0


class Flights:
    """Keeps what is under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def fly(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Join what is under way, or begin. Cancelled callers leave; when all have left, so does the work."""
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.get_running_loop().create_task(self._work(key, work)))
            flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._flights[key] = flight
        flight.aboard += 1
        try:
            await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.aboard == 1 and not flight.task.done():
                flight.task.cancel()
                self._forget(key, flight)
            raise
        finally:
            flight.aboard -= 1

    async def _work(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        try:
            await work()
        finally:
            flight = self._flights.get(key)
            if flight is not None and flight.task is task:
                self._forget(key, flight)

    def _forget(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
