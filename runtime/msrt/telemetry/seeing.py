"""What a master in the field opens to be seen from outside: its tracer and the file of its decisions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from msrt.dispatch.decisions import Entry
from msrt.protocol.messages import Mark
from msrt.settings import MasterConfig
from msrt.telemetry.metrics import Metrics
from msrt.telemetry.otlp import open_tracer
from msrt.telemetry.otlp_beside import BesideSink
from msrt.telemetry.records import RecordFile
from msrt.telemetry.spans import Tracer
from msrt.world.world import World

__all__ = ["seen"]

RECORD = "decisions.jsonl"


@contextlib.asynccontextmanager
async def seen(
    config: MasterConfig, world: World, folder: Path, metrics: Metrics, role: str, node: str, name: str, **said: Mark
) -> AsyncIterator[tuple[Tracer | None, Callable[[Entry], None]]]:
    """A tracer, if there is a collector, and who writes decisions down. `said`: stands on every span.

    Raises InvalidConfig, LocalError (msrt[trace] is not installed).
    """
    tracer = open_tracer(
        config.trace, config.trace_share, role, node, name, rng=world.random, now=world.now, wall=world.wall,
        open_sink=BesideSink, **said,
    )  # fmt: skip
    records = RecordFile(
        folder / RECORD, config.record_bytes, offload=world.offload, to_wall=lambda at: at - world.now() + world.wall()
    )
    metrics.tally(
        "decisions_total", "Decisions that were drawn, by what became of them.", ("step",),
        lambda: {("written",): records.written, ("dropped",): records.dropped},
    )  # fmt: skip
    sink = tracer.sink if tracer is not None else None
    metrics.tally(
        "spans_total", "Spans of traced requests, by what became of them.", ("step",),
        lambda: {("sent",): sink.sent, ("dropped",): sink.dropped} if sink is not None else {},
    )  # fmt: skip
    if isinstance(sink, BesideSink):
        sink.start()
    writing = asyncio.ensure_future(records.run()) if config.record_share else None
    try:
        yield tracer, records
    finally:
        if writing is not None:
            writing.cancel()
            await asyncio.wait([writing])
        if sink is not None:
            await sink.finish()
