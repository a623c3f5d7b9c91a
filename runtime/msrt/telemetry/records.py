"""Lines of JSON in a file of bounded size: what was drawn of a dispatcher's decisions, for whoever learns from them.

The loop only appends to a list; a thread encodes and writes, once a second. What does not fit the list is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from msrt.errors import words_of

__all__ = ["RecordFile"]

log = structlog.get_logger()
WAITING: Final = 16_384
EVERY_S: Final = 1.0


class RecordFile:
    """`PATH.jsonl`, and `PATH.1.jsonl` with what came before it; both together stay below `bound` bytes."""

    def __init__(
        self, path: Path, bound: int, *, offload: Callable[..., Awaitable[Any]], to_wall: Callable[[float], float]
    ) -> None:
        """`to_wall`: an entry's `at` as seconds since 1970."""
        self.path, self._bound, self._offload, self._to_wall = path, bound, offload, to_wall
        self._waiting: list[msgspec.Struct] = []
        self._failing = False
        self.written = self.dropped = 0

    def __call__(self, entry: msgspec.Struct) -> None:
        """Write it down, soon."""
        if len(self._waiting) < WAITING:
            self._waiting.append(entry)
        else:
            self.dropped += 1

    async def run(self) -> None:
        """Until cancelled; then what waits is still written."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self.flush()
        finally:
            self._write(self._take())

    async def flush(self) -> None:
        """All that was said so far is in the file, or counted."""
        if self._waiting:
            await self._offload(self._write, self._take())

    def _take(self) -> list[msgspec.Struct]:
        taken, self._waiting = self._waiting, []
        return taken

    def _write(self, entries: list[msgspec.Struct]) -> None:
        """Blocking."""
        if not entries:
            return
        encoder = msgspec.json.Encoder()
        lines = b"".join([encoder.encode(self._dated(entry)) + b"\n" for entry in entries])
        try:
            self._make_room(len(lines))
            with self.path.open("ab") as file:
                if file.tell() and not self._ends_whole():
                    file.write(b"\n")  # a line that a crash cut off
                file.write(lines)
        except OSError as error:
            self.dropped += len(entries)
            if not self._failing:
                log.warning("record.not_written", path=str(self.path), error=words_of(error))
            self._failing = True
        else:
            self.written += len(entries)
            self._failing = False

    def _dated(self, entry: Any) -> msgspec.Struct:
        found: msgspec.Struct = msgspec.structs.replace(entry, at=round(self._to_wall(entry.at), 6))
        return found

    def _make_room(self, size: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size + size > self._bound // 2:
                self.path.replace(self.path.with_suffix(".1" + self.path.suffix))

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"
