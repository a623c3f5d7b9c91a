"""Group commit: callers that ask at the same time share one fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msrt.errors import MsrtError

__all__ = ["Commits", "Offload"]

Offload = Callable[..., Awaitable[Any]]
"""World.offload."""


class Commits:
    """Runs a blocking commit off the loop, one at a time, for as many as wait."""

    def __init__(self, commit: Callable[[], None], offload: Offload) -> None:
        self._commit, self._offload = commit, offload
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    async def commit(self) -> None:
        """Return once a commit that began after this call is through. Raises DiskFull."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        await done

    async def _run(self) -> None:
        waiting: list[asyncio.Future[None]] = []
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error: MsrtError | None = None
                try:
                    await self._offload(self._commit)
                except MsrtError as failed:
                    error = failed
                settle(waiting, error)
        except BaseException as error:
            settle(waiting + self._waiting, error)
            self._waiting = []
            raise
        finally:
            self._task = None


def settle(waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
    """Give all who still wait the same end."""
    for done in waiting:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            done.cancel()
        else:
            done.set_exception(error)
