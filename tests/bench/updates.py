"""Hot updates under load. `python -m tests.bench updates` prints the rows.

Requests come open-loop, at Poisson times, from a process of its own, and are timed from when they should have been
sent: a stall is paid by all who came meanwhile. Versions are rolled out one after the other by one operator's session,
every two seconds: the second in which one is rolled out is held against the one after it, so that what else the machine
does falls on both.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
from onnx import numpy_helper

from msrt.operator.session import Ask, ask
from tests.bench.table import Row
from tests.bench.tree import BODY, Proc, Tree, mlp

RATE = 500.0
UPDATES, SETTLED, VERSIONS = 100, 20, 4
WARM_S, SECOND = 5.0, 1.0
WINDOW_S = 0.2
CONNECTIONS = 48
GROWTH_MIB = 6.0


# --- the load, in a process of its own ---------------------------------------------------------------------------


async def _caller(url: str, waiting: asyncio.Queue[float], out: list[tuple[float, float, int]]) -> None:
    """One connection that asks what is due; one that breaks is opened again."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
    reader: Any = None
    writer: Any = None
    while True:
        due = await waiting.get()
        status = 0
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            status = int(answer.split(b" ", 2)[1])
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            writer = None
        out.append((due, time.monotonic() - due, status))


async def _load(url: str, rate: float, stop: Path) -> list[tuple[float, float, int]]:
    """Until `stop` exists: (moment, seconds, status) of every request."""
    waiting: asyncio.Queue[float] = asyncio.Queue()
    out: list[tuple[float, float, int]] = []
    callers = [asyncio.create_task(_caller(url, waiting, out)) for _ in range(CONNECTIONS)]
    generator, asked = random.Random(11), 0
    due = time.monotonic()
    while asked % 64 or not stop.exists():  # noqa: ASYNC240 - some microseconds, now and then
        due += generator.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        waiting.put_nowait(due)
        asked += 1
    end = time.monotonic() + 12
    while len(out) < asked and time.monotonic() < end:  # noqa: ASYNC110 - the callers do not tell
        await asyncio.sleep(0.01)
    for caller in callers:
        caller.cancel()
    return out + [(0.0, 12.0, 0)] * (asked - len(out))


# --- the updates -------------------------------------------------------------------------------------------------


def variant(number: int) -> bytes:
    """The small MLP with other weights."""
    model = onnx.load_model_from_string(mlp())
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * (1 + number / 10), tensor.name))
    return bytes(model.SerializeToString())


def _push(tree: Tree) -> None:
    x = tree.path / "x.npy"
    np.save(x, np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32))
    for number in range(VERSIONS):
        file = tree.path / f"mlp{number}.onnx"
        file.write_bytes(variant(number))
        tree.cli("model", "push", str(file), "--name", "mlp")


def _roll(tree: Tree, device: Proc) -> tuple[list[float], list[float], list[int], int]:
    """When each update began, memory and open files of a device after it, and how many were rolled back."""
    began: list[float] = []
    memory: list[float] = []
    files: list[int] = []

    async def work(cloud: Ask) -> int:
        back = 0
        for number in range(UPDATES):
            began.append(time.monotonic())
            version = 1 + (number + 1) % VERSIONS
            await cloud("model.rollout", model="mlp", version=version, window_s=WINDOW_S)
            while True:
                now = await cloud("model.rollout.status", model="mlp")
                if now["version"] == version and now["state"] in ("done", "rolled_back"):
                    break
                await asyncio.sleep(0.05)
            back += now["state"] != "done"
            await asyncio.sleep(max(0.0, began[-1] + 2 * SECOND - time.monotonic()))
            memory.append(device.rss())
            files.append(_open_files(device))
        return back

    return began, memory, files, ask(tree.path / "cloud", work)


def _open_files(proc: Proc) -> int:
    return sum(1 for _ in Path(f"/proc/{proc.pid}/fd").iterdir())


def p99(times: list[float]) -> float:
    """Milliseconds."""
    return float(np.percentile(times, 99)) * 1000 if times else float("nan")


def rows() -> list[Row]:
    """What a hundred updates cost those who ask meanwhile, and what they leave behind."""
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        devices = [tree.device(name, "north") for name in ("d1", "d2")]
        _push(tree)
        tree.cli("model", "rollout", "mlp@1", "--window", "0.5")
        url = edge.field("http")
        tree.serving(url, devices=2)
        stop, target = tree.path / "stop", tree.path / "load.json"
        argv = [sys.executable, "-m", "tests.bench.updates", f"{url}/v2/models/mlp/infer", str(RATE), str(stop)]
        load = subprocess.Popen([*argv, str(target)])
        time.sleep(WARM_S)
        began, memory, files, back = _roll(tree, devices[0])
        over = time.monotonic()
        stop.touch()
        load.wait(30)
        return _judged(json.loads(target.read_text()), [*began, over], memory, files, back)


def _judged(
    seen: list[tuple[float, float, int]],
    began: list[float],
    memory: list[float],
    files: list[int],
    back: int,
) -> list[Row]:
    each = [[took for due, took, _ in seen if one <= due < one + SECOND] for one, _ in pairwise(began)]
    steady = [took for one, nxt in pairwise(began) for due, took, _ in seen if one + SECOND <= due < nxt]
    during = [took for update in each for took in update]
    usual, updating = p99(steady), p99(during)
    failed = sum(status != 200 for _, _, status in seen)
    pace = (began[-1] - began[0]) / UPDATES
    asked = len(seen) / (began[-1] - began[0] + WARM_S)
    growth = max(memory[-5:]) - max(memory[:SETTLED])
    what = f"{UPDATES} hot updates in a row at {RATE:g} requests/s"
    return [
        Row(f"{what}: failed", float(failed), "", "<=", 0.0, f"{len(seen):,} requests, {asked:.0f} a second"),
        Row(f"{what}: rolled back", float(back), "", "<=", 0.0, f"{pace:.2f} s from one to the next"),
        Row(f"{what}: p99 in the update second", updating, "ms", "<=", 2 * usual, f"steady {usual:.2f} ms"),
        Row(f"{what}: worst of one update", max(map(max, each)) * 1000, "ms"),
        Row(f"{what}: growth of a device over the last {UPDATES - SETTLED}", growth, "MiB", "<=", GROWTH_MIB,
            f"{memory[-1]:.1f} MiB"),
        Row(f"{what}: open files more than in the first {SETTLED}", float(max(files[SETTLED:]) - max(files[:SETTLED])),
            "", "<=", 0.0, f"{files[-1]}"),
    ]  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[4]).write_text(json.dumps(asyncio.run(_load(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])))))
