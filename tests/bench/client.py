"""The client library over ZeroMQ, many requests on their way. `python -m tests.bench client` prints the rows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from msrt.client import AsyncClient
from msrt.process import _new_loop
from tests.bench.table import Row
from tests.bench.tree import Tree

TOGETHER = 64
"""Requests that one caller hands over at once."""
CALLERS = 4
SECONDS = 4.0


def rows() -> list[Row]:
    """Pipelined by `infer_many`, by single `infer` calls, and one after the other."""
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        tree.device("device", "north")
        tree.push()
        tree.serving(edge.field("http"))
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_measure(edge.field("zmq"), tree.path / "cloud"))


async def _measure(url: str, state: Path) -> list[Row]:
    x = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
    async with AsyncClient([url], state=state) as client:
        await client.infer("mlp", {"x": x})
        many = [{"x": x}] * TOGETHER

        async def together(_: int) -> int:
            return len(await client.infer_many("mlp", many))

        async def single(_: int) -> int:
            await client.infer("mlp", {"x": x})
            return 1

        batch = await _rate(together, CALLERS)
        alone = await _rate(single, CALLERS * TOGETHER)
        one = await _rate(single, 1)
    return [
        Row(f"client over ZeroMQ, infer_many, {CALLERS} x {TOGETHER} on their way", batch, "1/s", ">=", 10_000.0),
        Row(f"client over ZeroMQ, infer, {CALLERS * TOGETHER} callers", alone, "1/s"),
        Row("client over ZeroMQ, infer, one after the other", one, "1/s"),
    ]


async def _rate(ask, callers: int) -> float:
    done = 0
    end = time.perf_counter() + SECONDS

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            got = await ask(number)  # `done +=` would read `done` before it waits
            done += got

    began = time.perf_counter()
    await asyncio.gather(*map(caller, range(callers)))
    return done / (time.perf_counter() - began)
