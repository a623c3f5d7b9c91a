"""The client library over ZeroMQ and HTTP, many requests on their way and one. `python -m tests.bench client` prints
the rows."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msrt.client import AsyncClient
from msrt.process import _new_loop
from tests.bench.table import Row
from tests.bench.tree import Tree

TOGETHER = 64
"""Requests that one caller hands over at once."""
CALLERS = 4
SECONDS = 4.0
WARM = 20


def rows() -> list[Row]:
    """Pipelined by `infer_many`, by single `infer` calls, and one after the other."""
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        tree.device("device", "north")
        tree.push()
        tree.serving(edge.field("http"))
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            state = tree.path / "cloud"
            return runner.run(_zeromq(edge.field("zmq"), state)) + runner.run(_http(edge.field("http"), state))


class Measured(NamedTuple):
    """What a load of so many seconds came to."""

    rate: float
    p50_ms: float
    cpu_us: float
    """Of this process, which is the client, per request."""


async def _zeromq(url: str, state: Path) -> list[Row]:
    async with AsyncClient([url], state=state) as client:
        batch = await _rate(_together(client), CALLERS)
        stream = await _rate(_streamed(client), 1)
        alone = await _rate(_single(client), CALLERS * TOGETHER)
        one = await _rate(_single(client), 1)
    return [
        Row(f"client over ZeroMQ, infer_many, {CALLERS} x {TOGETHER} on their way", batch.rate, "1/s", ">=", 20_000.0),
        Row("client over ZeroMQ, infer_many: its own CPU per request", batch.cpu_us, "us"),
        Row("client over ZeroMQ, stream", stream.rate, "1/s", ">=", 20_000.0),
        Row(f"client over ZeroMQ, infer, {CALLERS * TOGETHER} callers", alone.rate, "1/s"),
        Row("client over ZeroMQ, infer, one after the other", one.rate, "1/s"),
        Row("client over ZeroMQ, infer, one after the other: p50", one.p50_ms, "ms", "<=", 0.35),
        Row("client over ZeroMQ, infer, one after the other: its own CPU", one.cpu_us, "us"),
    ]


async def _http(url: str, state: Path) -> list[Row]:
    async with AsyncClient([url], state=state) as client:
        batch = await _rate(_together(client), CALLERS)
        many = await _rate(_single(client), CALLERS * TOGETHER)
        one = await _rate(_single(client), 1)
    return [
        Row(f"client over HTTP, infer_many, {CALLERS} x {TOGETHER} on their way", batch.rate, "1/s"),
        Row(f"client over HTTP, infer, {CALLERS * TOGETHER} callers", many.rate, "1/s"),
        Row(f"client over HTTP, infer, {CALLERS * TOGETHER} callers: its own CPU per request", many.cpu_us, "us"),
        Row("client over HTTP, infer, one after the other: p50", one.p50_ms, "ms", "<=", 0.5),
        Row("client over HTTP, infer, one after the other: its own CPU", one.cpu_us, "us"),
    ]


X = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
Load = Callable[[], Awaitable[int]]


def _together(client: AsyncClient) -> Load:
    async def load() -> int:
        return len(await client.infer_many("mlp", [{"x": X}] * TOGETHER))

    return load


def _single(client: AsyncClient) -> Load:
    async def load() -> int:
        await client.infer("mlp", {"x": X})
        return 1

    return load


def _streamed(client: AsyncClient) -> Load:
    async def load() -> int:
        count = 0
        async for _ in client.stream("mlp", ({"x": X} for _ in range(4000))):
            count += 1
        return count

    return load


async def _rate(ask: Load, callers: int) -> Measured:
    """Ask for a while, after a moment to warm up."""
    for _ in range(WARM):
        await ask()
    done, took = 0, []
    cpu, began = time.process_time(), time.perf_counter()
    end = began + SECONDS

    async def caller() -> None:
        nonlocal done
        while (start := time.perf_counter()) < end:
            got = await ask()  # `done +=` would read `done` before it waits
            done += got
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - began
    return Measured(done / seconds, statistics.median(took) * 1000, (time.process_time() - cpu) / done * 1e6)
