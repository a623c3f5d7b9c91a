"""One request after the other: how long, and where the time goes. `python -m tests.bench latency` prints the rows.

All ways are taken in turn in short windows, beside pyzmq alone on the same way (see `bare`): from a caller to an edge,
to a device and back. Of the processors' time Python's thread of each process is told from libzmq's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msrt.client import AsyncClient, Client, connect
from msrt.process import _new_loop
from tests.bench.bare import Bare
from tests.bench.table import Row
from tests.bench.tree import Tree

ROUNDS = 24
WINDOW_S = 0.25
WARM = 20
SPIN_S = 0.002
X = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
Ask = Callable[[], Awaitable[object]]
FLOOR, ZEROMQ, HTTP = "pyzmq alone, through a process that passes on", "client over ZeroMQ", "client over HTTP"
AWAKE, THREAD = ", awake while it waits", ", by a thread without a loop"


def rows() -> list[Row]:
    """The ways beside each other, and what one of them is made of."""
    with Tree() as tree:
        edge, device = tree.edge("edge", "north"), tree.device("device", "north")
        tree.push()
        tree.serving(edge.field("http"))
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            pids = {"client": os.getpid(), "edge": edge.pid, "device": device.pid}
            return runner.run(_measured(edge.field("zmq"), edge.field("http"), tree.path / "cloud", pids))


class Used(NamedTuple):
    """Of one process so far, by Python's thread and by the others."""

    main_us: float
    others_us: float
    woken: int


def used(pid: int) -> Used:
    """What its threads had of the processors, and how often they went to sleep."""
    shares, woken = [0.0, 0.0], 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends
            ns = int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text()
            shares[int(task.name) != pid] += ns / 1000
            woken += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return Used(*shares, woken)


async def _measured(zeromq: str, http: str, state: Path, pids: dict[str, int]) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        ways: dict[str, Ask] = {FLOOR: stack.enter_context(Bare()).ask}
        for what, url in ((ZEROMQ, zeromq), (HTTP, http)):
            for how, spin_s in (("", 0.0), (AWAKE, SPIN_S)):
                client = await stack.enter_async_context(AsyncClient([url], state=state, spin_s=spin_s))
                ways[what + how] = _asking(client)
            ways[what + THREAD] = _blocking(stack.enter_context(connect([url], state=state)))
        for ask in ways.values():
            await _window(ask)
        took: dict[str, list[float]] = {what: [] for what in ways}
        spent: dict[str, list[Used]] = {name: [] for name in pids}
        for _ in range(ROUNDS):
            for what, ask in ways.items():
                before = {name: used(pid) for name, pid in pids.items()}
                window = await _window(ask)
                took[what] += window
                if what == ZEROMQ:
                    for name, pid in pids.items():
                        gone = zip(used(pid), before[name], strict=True)
                        spent[name].append(Used(*((now - then) / len(window) for now, then in gone)))
    return [*_ways(took), *_parts(spent)]


def _asking(client: AsyncClient) -> Ask:
    return lambda: client.infer("mlp", {"x": X})


def _blocking(client: Client) -> Ask:
    async def ask() -> None:
        client.infer("mlp", {"x": X})  # the loop stands still meanwhile: nobody else asks

    return ask


async def _window(ask: Ask) -> list[float]:
    """Milliseconds of each request."""
    for _ in range(WARM):
        await ask()
    took, end = [], time.perf_counter() + WINDOW_S
    while (began := time.perf_counter()) < end:
        await ask()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _ways(took: dict[str, list[float]]) -> Iterable[Row]:
    floor = statistics.median(took[FLOOR])
    for what, times in took.items():
        p50, best = statistics.median(times), float(np.percentile(times, 1))
        peer = "" if what == FLOOR else f"{p50 / floor:.2f} x pyzmq alone; "
        yield Row(f"{what}, one after the other: p50", p50, "ms", peer=f"{peer}1 % took under {best:.3g} ms")


def _parts(spent: dict[str, list[Used]]) -> Iterable[Row]:
    middle = {name: Used(*map(statistics.median, zip(*parts, strict=True))) for name, parts in spent.items()}
    for name, part in middle.items():
        yield Row(f"{ZEROMQ}: of a request, Python's thread of the {name}", part.main_us, "us")
    others = " + ".join(f"{part.others_us:.0f} {name}" for name, part in middle.items())
    total = sum(part.others_us for part in middle.values())
    yield Row(f"{ZEROMQ}: of a request, libzmq's threads of all three", total, "us", peer=others)
    yield Row(f"{ZEROMQ}: of a request, threads woken", sum(part.woken for part in middle.values()), "")
