"""How late the loops of edge and cloud wake up while a 10 M-parameter model is trained through them.

A probe counts the loop's own histogram of /metrics before and after, at rest and during the rounds; the share
of wake-ups later than 5 ms is exact, for that is one of its bounds. `python -m tests.bench looplag` prints the rows.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from urllib.request import urlopen

from tests.bench.table import Row
from tests.bench.tree import Proc, Tree, until

PARAMETERS = 10_000_000
ROUNDS = 6
REST_S = 15.0
LIMIT_S = 300.0
BUCKET = re.compile(r'^msrt_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
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


def rows() -> list[Row]:
    """At rest, then through the rounds: one edge, two devices, all on this machine."""
    with Tree() as tree:
        watched = {"cloud": tree.procs["cloud"], "edge": tree.edge("edge", "north")}
        tree.device("one", "north")
        tree.device("two", "north")
        marks = [{name: _buckets(proc) for name, proc in watched.items()}]
        time.sleep(REST_S)
        marks.append({name: _buckets(proc) for name, proc in watched.items()})
        job = tree.cli("train", "run", str(_job(tree.path / "wide"))).split()[0]

        def row() -> dict[str, object]:
            return next(r for r in json.loads(tree.cli("train", "status", "--json")) if r["job"] == job)

        began = time.monotonic()
        until("the job ends", lambda: row()["state"] not in {"queued", "running"}, LIMIT_S)
        seconds = time.monotonic() - began
        end = row()
        if end["state"] != "finished":
            raise RuntimeError(f"the job {end['state']}: {end['reason']}")
        marks.append({name: _buckets(proc) for name, proc in watched.items()})
        shutil.rmtree(tree.path / "wide")
    rest, work = marks[0:2], marks[1:3]
    table = []
    for name in watched:
        lag = quantile(work[0][name], work[1][name], 0.999)
        still = quantile(rest[0][name], rest[1][name], 0.999)
        woken = work[1][name][float("inf")] - work[0][name][float("inf")]
        table.append(
            Row(
                f"loop lag of the {name}, {ROUNDS} rounds of {PARAMETERS / 1e6:g} M parameters: p99.9", lag, "ms", "<=",
                5.0, f"at rest {still:.2f} ms; {woken:,.0f} wake-ups",
            )
        )  # fmt: skip
    return [*table, Row("a round of 10 M parameters, two devices, one edge", seconds / ROUNDS, "s")]
