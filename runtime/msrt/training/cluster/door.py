"""Where a group's agent asks its node for the others: a socket in the job's directory, as the runner's pipe is busy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from msrt.errors import MsrtError, words_of
from msrt.training.cluster.meeting import Meet, Met

__all__ = ["DOOR", "Ask", "Door", "near"]

log = structlog.get_logger()
DOOR: Final = "door.sock"
LIMIT: Final = 4096
Ask = Callable[[Meet], Awaitable[Met]]


def near(descriptor: int, name: str) -> str:
    """A short path of a file in an open directory: that of a socket may have 107 bytes."""
    return f"/proc/self/fd/{descriptor}/{name}"


class Door:
    """Asks the tree what the agent asks, one line of JSON for one; an agent whose node finds nobody hears that it is
    alone for now, and asks again.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._server: asyncio.Server | None = None

    async def open(self, directory: Path) -> None:
        """Listen in this directory; once more is no fault."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, sock=_listener(directory), limit=LIMIT)

    def close(self) -> None:
        """No more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, asyncio.CancelledError):
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> Met:
        try:
            return await self._ask(msgspec.json.decode(line, type=Meet))
        except (MsrtError, msgspec.MsgspecError) as error:
            log.info("cluster.nobody_met", error=words_of(error))
            return Met()


def _listener(directory: Path) -> socket.socket:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DOOR).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        listener.bind(near(descriptor, DOOR))
    finally:
        os.close(descriptor)
    return listener
