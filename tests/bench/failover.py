"""Nodes that die or stop under load. `python -m tests.bench failover` prints the rows."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msrt.client import AsyncClient
from msrt.errors import MsrtError
from tests.bench.table import Row
from tests.bench.tree import BODY, Proc, Tree, post, until

CALLERS = 8
BEFORE_S, AFTER_S = 1.5, 4.0


class Seen:
    """What the load has seen: requests, failures, and the longest wait of any."""

    def __init__(self) -> None:
        self.asked = self.failed = 0
        self.longest_s = 0.0


def rows() -> list[Row]:
    """A device killed, a device stopped, an edge killed."""
    with Tree() as tree:
        edges = {name: tree.edge(name, "north") for name in ("e1", "e2")}
        devices = [tree.device(f"d{n}", "north") for n in range(3)]
        tree.push()
        urls = {name: edge.field("http") for name, edge in edges.items()}
        home = str(until("an edge answers", lambda: next((n for n in urls if _answers(urls[n])), ""), 30))
        tree.serving(urls[home], devices=3)
        zmq = [edges[home].field("zmq")]
        table = _device("killed", devices[0], signal.SIGKILL, zmq, tree, 500.0)
        table += _device("stopped", devices[1], signal.SIGSTOP, zmq, tree, 2000.0)
        devices[1].signal(signal.SIGCONT)
        tree.serving(urls[home], devices=2)
        other = next(name for name in urls if name != home)
        seen = asyncio.run(
            _under_load([e.field("zmq") for e in edges.values()], tree.path / "cloud", lambda: None, 0.1)
        )
        began = time.perf_counter()
        edges[home].signal(signal.SIGKILL)
        until("its devices serve elsewhere", lambda: _answers(urls[other]), 30)
        first = time.perf_counter() - began
        tree.serving(urls[other], devices=2)
        moved = time.perf_counter() - began
        table += [
            Row("an edge killed: first of its devices serves under another", first, "s"),
            Row("an edge killed: all of its devices serve under another", moved, "s", "<=", 3.0),
        ]
        return table if seen.asked else []


def _answers(url: str) -> bool:
    return post(f"{url}/v2/models/mlp/infer", BODY, 1.0)[0] == 200


def _device(what: str, device: Proc, number: signal.Signals, urls: list[str], tree: Tree, limit: float) -> list[Row]:
    seen = asyncio.run(_under_load(urls, tree.path / "cloud", lambda: device.signal(number), AFTER_S))
    beside = f"{seen.asked:,} requests, {seen.failed} failed"
    return [
        Row(f"a device {what} under load: longest gap", seen.longest_s * 1000, "ms", "<=", limit, beside),
        Row(f"a device {what} under load: failed requests", seen.failed, "", "<=", 0.0),
    ]


async def _under_load(urls: list[str], state: Path, strike: Callable[[], None], after_s: float) -> Seen:
    x = np.random.default_rng(3).normal(size=(1, 64)).astype(np.float32)
    seen, over = Seen(), False

    async def caller() -> None:
        while not over:
            began = time.perf_counter()
            seen.asked += 1
            try:
                await client.infer("mlp", {"x": x})
            except MsrtError:
                seen.failed += 1
            seen.longest_s = max(seen.longest_s, time.perf_counter() - began)

    async with AsyncClient(urls, state=state) as client:
        await client.infer("mlp", {"x": x})
        callers = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
        await asyncio.sleep(BEFORE_S)
        strike()
        await asyncio.sleep(after_s)
        over = True
        await asyncio.gather(*callers)
    return seen
