"""Ended spans to a process of low priority beside this one, which makes OpenTelemetry's objects of them and sends them.

A span costs its SDK and encoder 50 us, in a thread that shares the interpreter with the event loop; as a tuple in a
pipe it costs the loop 3. What may be on its way is bounded; a process that dies costs the spans that it had, which are
counted, and is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import struct
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from msrt.errors import LocalError
from msrt.process import spawn_child, stop_child
from msrt.protocol.messages import Mark
from msrt.telemetry.context import TraceContext
from msrt.telemetry.spans import Span

__all__ = ["SIZE", "Account", "BesideSink", "Ended", "packed"]

log = structlog.get_logger()
SIZE: Final = struct.Struct("<I")
"""Bytes of the message that follows: spans as a msgpack array."""
WAITING: Final = 4096
"""Spans handed over and not accounted for; one more is dropped and counted."""
TOGETHER: Final = 64
EVERY_S: Final = 1.0
AGAIN_S: Final = 5.0
"""Before a process that died is started again."""
CLOSE_S: Final = 5.0
"""How long the last spans may take to be sent."""
NICE: Final = 10
_Context = tuple[bytes, int, str]


class Ended(msgspec.Struct, array_like=True):
    """A span as it crosses the pipe; times in nanoseconds since 1970."""

    name: str
    kind: str
    began: int
    ended: int
    context: _Context
    parent: _Context | None
    links: Sequence[_Context]
    attributes: dict[str, Mark]
    error: str
    owner: str


class Account(msgspec.Struct, array_like=True):
    """What became of all spans so far, one JSON line."""

    sent: int = 0
    lost: int = 0
    away: bool = False
    """The collector does not answer."""


_encoder: Final = msgspec.msgpack.Encoder()
_account: Final = msgspec.json.Decoder(Account)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def packed(context: TraceContext) -> _Context:
    """Trace id, span id, state: msgpack has no integers of 128 bits."""
    return context.trace_id.to_bytes(16, "big"), context.span_id, context.state


class BesideSink:
    """A Sink whose work is another process's. `run` keeps it alive; `finish` ends it."""

    def __init__(self, url: str, service: str, node: str, name: str) -> None:
        """Raises LocalError: msrt[trace] is not installed."""
        if not _installed("opentelemetry.sdk") or not _installed("opentelemetry.exporter.otlp.proto.http"):
            raise LocalError("traces need OpenTelemetry's SDK", hint="pip install 'msrt[trace]'")
        self._url = url
        self._argv = [sys.executable, "-m", "msrt.telemetry.otlp_child", url, service, node, name]
        self._ended: list[Ended] = []
        self._handed = self._full = 0
        self._before, self._now = Account(), Account()
        """Of the processes before this one; of this one."""
        self._given = 0
        """To this process."""
        self._pipe: asyncio.StreamWriter | None = None
        self.pid = 0
        """Of the other process, while there is one."""
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @property
    def sent(self) -> int:
        return self._before.sent + self._now.sent

    @property
    def dropped(self) -> int:
        return self.lost + self._full

    @property
    def lost(self) -> int:
        """Of those that were handed over."""
        return self._before.lost + self._now.lost

    def start(self) -> None:
        """Begin to run, in this event loop."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    def emit(self, span: Span, began: int, ended: int) -> None:
        if self._handed - self.sent - self.lost >= WAITING:
            self._full += 1
            return
        self._handed += 1
        self._ended.append(
            Ended(
                span.name, span.kind, began, ended, packed(span.context),
                None if span.parent is None else packed(span.parent), [packed(link) for link in span.links],
                span.attributes, span.error, span.owner,
            )
        )  # fmt: skip
        if len(self._ended) >= TOGETHER:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pipe is None or not self._ended:  # kept until there is somebody, within the bound
            return
        message = _encoder.encode(self._ended)
        self._given += len(self._ended)
        self._ended.clear()
        self._pipe.write(SIZE.pack(len(message)) + message)

    async def _run(self) -> None:
        while self._ended or not self._ending.is_set():
            child = await spawn_child(
                self._argv, nice=NICE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                self._pipe, self.pid = child.stdin, child.pid
                self._flush()
                if self._ending.is_set():
                    self._pipe.close()
                await self._hear(child.stdout)
            finally:
                self._pipe, self.pid = None, 0
                self._over()
                await stop_child(child)
            if not self._ending.is_set():
                log.warning("trace.process_ended", status=child.returncode)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await self._ending.wait()

    async def _hear(self, lines: asyncio.StreamReader) -> None:
        """Until it says no more."""
        while line := await lines.readline():
            with contextlib.suppress(msgspec.DecodeError):
                before, self._now = self._now.away, _account.decode(line)
                if self._now.away != before:
                    what = "trace.collector_away" if self._now.away else "trace.sent"
                    (log.warning if self._now.away else log.info)(what, url=self._url)

    def _over(self) -> None:
        """What it had and did not account for is lost."""
        known = self._now.sent + self._now.lost
        self._before.sent += self._now.sent
        self._before.lost += self._now.lost + max(self._given - known, 0)
        self._now, self._given = Account(), 0

    async def finish(self) -> None:
        """Send what waits, as long as that makes sense."""
        running = self._running
        if running is None:
            return
        self._ending.set()
        self._flush()
        if self._pipe is not None:
            self._pipe.close()  # which says that no more will come: it sends what it has, and ends
        await asyncio.wait([running], timeout=CLOSE_S)
        running.cancel()
        await asyncio.wait([running])
