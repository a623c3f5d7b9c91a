"""What happened in a simulation, one line each, byte for byte the same for the same seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from msrt.world.loop import VirtualLoop, current_process

__all__ = ["EventLog"]


class EventLog:
    """Lines `seconds who event key=value ...`; who is the node that runs, `-` outside of all."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._lines: list[str] = []

    def record(self, event: str, **keys: object) -> None:
        process = current_process()
        if process is not None and process.dead:
            return  # a dead process does not write
        who = process.name if process is not None else "-"
        pairs = "".join(f" {key}={_shown(value)}" for key, value in sorted(keys.items()))
        self._lines.append(f"{self._loop.time():.6f} {who} {event}{pairs}")

    def lines(self) -> list[str]:
        return list(self._lines)

    @contextmanager
    def capturing(self, level: int = logging.INFO) -> Iterator[None]:
        """While open, what anyone logs through structlog is recorded here instead of printed."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._processor],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _processor(self, _logger: object, _method: str, entry: MutableMapping[str, Any]) -> str:
        keys = {str(key): value for key, value in entry.items() if key not in {"event", "exc_info"}}
        self.record(str(entry["event"]), **keys)
        raise structlog.DropEvent


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return value.hex()[:32] or "-"
    if isinstance(value, BaseException):
        return repr(f"{type(value).__name__}: {value}")
    return repr(value)
