"""structlog, set up once per process: dotted events and keys, on stderr, as lines for people or as JSON.

stdout belongs to results: `msrt invite device | ssh ...` must hold nothing else.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

__all__ = ["configure", "logged", "quiet_unless_configured", "recent"]

RECENT: Final = 2000
"""Lines kept in memory for `msrt node logs`: about half a megabyte."""
LINES: Final = 5
"""Of the same event about the same peer in one second; what is beyond is counted, and said with the next one."""
SAME: Final = ("event", "peer", "node", "device", "source", "code", "type", "message")
"""Keys that make two lines the same one again: nobody may fill a disk or a reader's day by being refused."""
SECRET: Final = frozenset({"secret", "password", "api_key", "token", "invite", "link_secret"})

_recent: collections.deque[bytes] = collections.deque(maxlen=RECENT)
_count: list[int] = [0]


def configure(
    format: Literal["console", "json"] = "console",  # noqa: A002 - the setting's name
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Set up this process's log; what libraries tell `logging` (warnings and worse) takes the same way."""
    stream = stream or sys.stderr
    render: Any = _json if format == "json" else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Sparing(),
        _mask,
        structlog.processors.format_exc_info,
        _keep,
        render,
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=True,
    )
    handler = _Bridge()
    handler.setLevel(max(number, logging.WARNING))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Bridge)]:
        root.removeHandler(old)
    root.addHandler(handler)


def quiet_unless_configured() -> None:
    """For whoever only calls msrt: warnings on stderr, nothing on stdout, unless the program has set structlog up."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def logged() -> int:
    """Lines ever, of this process."""
    return _count[0]


def recent(limit: int = RECENT) -> list[dict[str, Any]]:
    """The last lines of this process's log, oldest first."""
    lines = list(_recent)[-limit:] if limit > 0 else []
    return [msgspec.json.decode(line) for line in lines]


class _Lines:
    """The end of structlog's chain. A reader that went away must not take the node with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = fatal = log = msg


class _Sparing:
    """Drops what a peer makes us say too often. The line's own time is the clock."""

    def __init__(self) -> None:
        self._second = ""
        self._said: collections.Counter[tuple[object, ...]] = collections.Counter()
        self._dropped: collections.Counter[tuple[object, ...]] = collections.Counter()

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event["event"])
        if not name.startswith("hop.") and not name.endswith(("refused", "unexpected_message")):
            return event
        second = str(event["timestamp"])[:19]
        if second != self._second:
            self._second = second
            self._said.clear()
            if len(self._dropped) > RECENT:
                self._dropped.clear()
        key = tuple(str(event.get(name, "")) for name in SAME)
        self._said[key] += 1
        if self._said[key] > LINES:
            self._dropped[key] += 1
            raise structlog.DropEvent
        if dropped := self._dropped.pop(key, 0):
            event["not_said"] = dropped
        return event


class _Bridge(logging.Handler):
    """Takes records of the standard library's logging into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        keys = {"exc_info": record.exc_info} if record.exc_info else {}
        log.log(record.levelno, "library.log", library=record.name, text=record.getMessage(), **keys)


def _mask(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in SECRET & event.keys():
        event[key] = "***"
    return event


def _keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    _recent.append(msgspec.json.encode(event, enc_hook=str))
    _count[0] += 1
    return event


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
