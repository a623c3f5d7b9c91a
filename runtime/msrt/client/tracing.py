"""The caller's own spans, where it named a collector: one around each `infer` and `infer_many`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from msrt.client.request import Answer
from msrt.errors import MsrtError
from msrt.protocol.messages import Mark
from msrt.telemetry.spans import CLIENT, Tracer

__all__ = ["asked", "client_tracer"]

T = TypeVar("T")


def client_tracer(collector: str, share: float) -> Tracer | None:
    """None without a collector. Raises InvalidConfig, LocalError (msrt[trace] is not installed)."""
    if not collector:
        return None
    from msrt.telemetry.otlp import open_tracer  # noqa: PLC0415 - an extra, for who asks for it

    return open_tracer(
        collector, share, "client", "", "", rng=secrets.SystemRandom(),
        now=time.monotonic,  # noqa: TID251 - uvloop's own counts whole milliseconds, longer than a small request
        wall=lambda: datetime.now(UTC).timestamp(),
    )  # fmt: skip


async def asked(
    tracer: Tracer, name: str, trace: str, ask: Callable[[str], Awaitable[T]], **attributes: Mark
) -> T:  # fmt: skip
    """Ask, as one span; `ask` gets the trace that goes along."""
    span = tracer.start(name, trace, CLIENT).set(**attributes)
    try:
        found = await ask(span.trace)
    except MsrtError as error:
        span.end(error=error.code)
        raise
    except asyncio.CancelledError:
        span.end(error="cancelled")
        raise
    if isinstance(found, Answer):
        span.set(version=found.version, device=found.device)
    span.end()
    return found
