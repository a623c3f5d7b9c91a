"""The process beside a master that sends its spans: they arrive whole, and what is lost is counted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from msrt.telemetry import otlp_beside
from msrt.telemetry.otlp_beside import BesideSink
from msrt.telemetry.spans import SERVER, Tracer
from tests.processes.collector import Collector


async def until(done, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not done():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.02)


def run(scenario):
    """scenario(collector, sink, tracer), and the sink finished behind it."""

    async def main(collector):
        sink = BesideSink(f"{collector.url}/v1/traces", "msrt-edge", "n" * 26, "north")
        tracer = Tracer(sink, share=1.0, rng=random.Random(1), now=time.monotonic, wall=time.time)
        sink.start()
        try:
            await scenario(collector, sink, tracer)
        finally:
            await sink.finish()
        assert sink.pid == 0

    with Collector() as collector:
        asyncio.run(main(collector))
        return collector.spans


def test_spans_arrive_as_they_were_made():
    """Ids, parents, links, attributes, errors, times and whose they are; none is lost when the node ends."""
    made = []

    async def scenario(_collector, _sink, tracer):
        parent = tracer.start("infer", f"00-{'ab' * 16}-{'cd' * 8}-01 vendor=1", SERVER).set(model="m", rows=3)
        child = tracer.start("attempt", parent.trace)
        child.links, child.owner = [parent.context], "cam-1"
        child.end(error="disconnected")
        parent.end()
        made.extend((child, parent))

    spans = {span.name: span for span in run(scenario)}
    child, parent = spans["attempt"], spans["infer"]
    assert parent.trace == "ab" * 16
    assert parent.parent == "cd" * 8
    assert parent.state == "vendor=1"
    assert parent.attributes == {"msrt.model": "m", "msrt.rows": 3}
    assert parent.service == "msrt-edge"
    assert child.parent == parent.span
    assert child.error == "disconnected"
    assert child.service == "msrt-device"
    assert len(child.links) == 1
    assert abs(parent.took - made[1].took) < 1e-5
    assert abs(parent.began / 1e9 - time.time()) < 60


def test_one_that_is_killed_is_started_again(monkeypatch):
    """What it had is counted as dropped; what comes later arrives."""
    monkeypatch.setattr(otlp_beside, "AGAIN_S", 0.05)
    monkeypatch.setattr(otlp_beside, "EVERY_S", 0.01)

    async def scenario(collector, sink, tracer):
        await until(lambda: sink.pid)
        first = sink.pid
        os.kill(first, signal.SIGSTOP)
        for _ in range(5):
            tracer.start("lost", "").end()
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        await until(lambda: sink.pid not in (0, first))
        assert sink.dropped == 5
        tracer.start("later", "").end()
        await until(lambda: sink.sent == 1)
        assert [span.name for span in collector.spans] == ["later"]

    run(scenario)


def test_what_may_wait_is_bounded(monkeypatch):
    """A process that does nothing costs spans, not memory."""
    monkeypatch.setattr(otlp_beside, "WAITING", 100)

    async def scenario(_collector, sink, tracer):
        await until(lambda: sink.pid)
        os.kill(sink.pid, signal.SIGSTOP)
        for _ in range(250):
            tracer.start("some", "").end()
        assert sink.dropped == 150
        os.kill(sink.pid, signal.SIGCONT)

    assert len(run(scenario)) == 100


def test_a_collector_that_is_away_is_said_once(monkeypatch):
    """And its spans are counted."""
    said = []
    monkeypatch.setattr(otlp_beside.log, "warning", lambda event, **_: said.append(event), raising=False)
    monkeypatch.setattr(otlp_beside, "EVERY_S", 0.01)

    async def main():
        sink = BesideSink("http://127.0.0.1:9/v1/traces", "msrt-edge", "n" * 26, "north")
        tracer = Tracer(sink, share=1.0, rng=random.Random(1), now=time.monotonic, wall=time.time)
        sink.start()
        for _ in range(3):
            tracer.start("some", "").end()
        await until(lambda: sink.dropped == 3)
        await sink.finish()

    asyncio.run(main())
    assert said == ["trace.collector_away"]


def test_without_the_sdk_it_says_what_to_install(monkeypatch):
    """LocalError, before a process is started."""
    monkeypatch.setattr(otlp_beside.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(otlp_beside.LocalError, match="OpenTelemetry"):
        BesideSink("http://127.0.0.1:9", "msrt-edge", "", "")
