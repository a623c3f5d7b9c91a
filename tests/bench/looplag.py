"""How late the loops of edge and cloud wake up while a 10 M-parameter model is trained through them.

A probe counts the loop's own histogram of /metrics before and after, at rest and during the rounds; the share
of wake-ups later than 5 ms is exact, for that is one of its bounds. A bare loop that does nothing but sleep shares the
tier's core all the while: what it sees is the machine's doing and the price of one core, not that of a call that keeps
the tier's loop busy. `python -m tests.bench looplag` prints the rows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

from tests.bench.table import Row
from tests.bench.tree import Proc, Tree

PARAMETERS = 10_000_000
ROUNDS = 12
REST_S = 15.0
BUCKET = re.compile(r'^msrt_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
BARE = """
import asyncio, time
async def watch():
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.02)
        print(max(0.0, time.monotonic() - before - 0.02), flush=True)
asyncio.run(watch())
"""
TASK = f"""
import torch
from msrt.training.task import Task


class Wide(Task):
    def model(self):
        return torch.nn.Linear(999, {PARAMETERS // 1000})

    def data(self, node):
        generator = torch.Generator().manual_seed(node.index)
        x = torch.randn(8, 999, generator=generator)
        y = torch.randint(0, 10, (8,), generator=generator)
        return (x, y), (x, y)
"""
JOB = f"""
name = "wide"
task = "task:Wide"
rounds = {ROUNDS}
deadline_s = 60.0
compression = "int8"
[train]
epochs = 1
batch = 8
lr = 0.01
"""


def _buckets(proc: Proc) -> dict[float, float]:
    """Wake-ups so far that were at most this late, by seconds."""
    with urlopen(proc.field("http") + "/metrics", timeout=5) as answer:
        return {float(bound): float(count) for bound, count in BUCKET.findall(answer.read().decode())}


def quantile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Milliseconds that this share of the wake-ups in between did not exceed, straight within a bucket."""
    counts = sorted((bound, after[bound] - before.get(bound, 0.0)) for bound in after)
    wanted = share * counts[-1][1]
    low, below = 0.0, 0.0
    for bound, upto in counts:
        if upto >= wanted:
            inside = (wanted - below) / (upto - below) if upto > below else 1.0
            return 1000 * (low + inside * (min(bound, 10.0) - low))
        low, below = bound, upto
    return 1000 * low


def _job(folder: Path) -> Path:
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(JOB)
    return folder


def _pin(proc: Proc, core: int) -> None:
    """Keep a process, its threads and its children to come on one core."""
    for thread in Path(f"/proc/{proc.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


class _Bare:
    """A process with a loop that only sleeps, on one core; `after(mark)` are the lags since a mark."""

    def __init__(self, core: int, out: Path) -> None:
        self._out = out
        with out.open("wb") as file:
            self._process = subprocess.Popen([sys.executable, "-c", BARE], stdout=file)
        os.sched_setaffinity(self._process.pid, {core})

    def mark(self) -> int:
        return len(self._lags())

    def p999(self, since: int) -> float:
        """Milliseconds."""
        lags = sorted(self._lags()[since:])
        return 1000 * lags[int(0.999 * len(lags))] if lags else 0.0

    def _lags(self) -> list[float]:
        return [float(line) for line in self._out.read_text().splitlines()]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _lag(name: str) -> tuple[float, float, float, str]:
    """p99.9 (ms) at rest, during the rounds, and of the bare loop beside; what else was seen, in words. This tier has
    a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})  # and with us all that we start
    try:
        with Tree() as tree:
            procs = {"cloud": tree.procs["cloud"], "edge": tree.edge("edge", "north")}
            tree.device("one", "north")
            tree.device("two", "north")
            _pin(procs[name], cores[0])
            bare = _Bare(cores[0], tree.path / "bare")
            marks = [_buckets(procs[name])]
            time.sleep(REST_S)
            marks.append(_buckets(procs[name]))
            began, since = time.monotonic(), bare.mark()
            tree.cli("train", "run", str(_job(tree.path / "wide")), "--watch")
            seconds = time.monotonic() - began
            marks.append(_buckets(procs[name]))
            limit = bare.p999(since)
            bare.stop()
    finally:
        os.sched_setaffinity(0, cores)
    rest, lag = (quantile(before, after, 0.999) for before, after in pairwise(marks))
    woken = marks[2][float("inf")] - marks[1][float("inf")]
    return rest, lag, limit, f"{woken:,.0f} wake-ups, {seconds / ROUNDS:.1f} s a round"


def rows() -> list[Row]:
    """Cloud and edge in turn: each would be a machine of its own, so the other tiers share the other core."""
    table = []
    for name in ("cloud", "edge"):
        rest, lag, limit, seen = _lag(name)
        what = f"loop lag of the {name}, {ROUNDS} rounds of {PARAMETERS / 1e6:g} M parameters: p99.9"
        beside = f"a bare loop on the same core {limit:.2f}: {lag / limit:.2g} x; at rest {rest:.2f} ms; {seen}"
        table.append(Row(what, lag, "ms", "<=", 5.0, beside))
    return table
