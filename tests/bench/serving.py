"""HTTP inference through an edge and a device, each a process, beside MLServer in one run.

`python -m tests.bench serving` prints the rows. Needs wrk on PATH.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.bench import mlserver
from tests.bench.table import Row, number
from tests.bench.tree import BODY, Tree

CLIENTS = (1, 16, 64)
SECONDS = 4
TRIES = 2
"""Of each cell, ours and the peer's in turn; the faster counts, for both."""
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Run(NamedTuple):
    """What wrk saw."""

    rate: float
    p50_ms: float
    p99_ms: float
    bad: int


def load(url: str, clients: int, folder: Path, seconds: float = SECONDS) -> Run:
    """Keep-alive connections that post one image each as fast as they are answered."""
    script = folder / "post.lua"
    headers = "wrk.headers['Content-Type'] = 'application/json'"
    script.write_text(f"wrk.method = 'POST'\n{headers}\nwrk.body = {json.dumps(BODY)}\n")
    argv = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}", "--timeout", "10s", "--latency", "-s", str(script), url]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    bad = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", out)))
    bad += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out)))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate is not None, out
    return Run(float(rate[1]), _latency(out, "50"), _latency(out, "99"), bad)


def _latency(out: str, percent: str) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)", out)
    assert found is not None, out
    return float(found[1]) * _MS[found[2]]


def rows() -> list[Row]:
    """Requests a second and latencies at 1, 16 and 64 clients."""
    if shutil.which("wrk") is None:
        return [Row("HTTP infer", None, "", peer="skipped: wrk is not on PATH")]
    missing = mlserver.install()
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        device = tree.device("device", "north")
        tree.push()
        url = edge.field("http")
        tree.serving(url)
        ours = f"{url}/v2/models/mlp/infer"
        theirs = ""
        if not missing:
            peer, theirs = mlserver.start(tree.path / "mlserver")
            tree.procs["mlserver"] = peer
            load(theirs, 4, tree.path, 1)
        load(ours, 16, tree.path, 1)
        table: list[Row] = []
        for clients in CLIENTS:
            mine, other = [], []
            before = edge.cpu_s(), device.cpu_s()
            for _ in range(TRIES):
                mine.append(load(ours, clients, tree.path))
                if theirs:
                    other.append(load(theirs, clients, tree.path))
            done = sum(run.rate for run in mine) * SECONDS
            spent = [1e6 * (p.cpu_s() - b) / done for p, b in zip((edge, device), before, strict=True)]
            table += _rows(clients, mine, other)
            table.append(Row(f"HTTP infer at {clients}: CPU of the edge a request", spent[0], "us"))
            table.append(Row(f"HTTP infer at {clients}: CPU of the device a request", spent[1], "us"))
        if missing:
            table.append(Row("MLServer", None, "", peer=f"skipped: {missing}"))
        return table


def _rows(clients: int, mine: list[Run], other: list[Run]) -> list[Row]:
    best, peer = max(mine), max(other) if other else None
    what = f"HTTP infer, {clients} client{'s' if clients > 1 else ''}"
    bounded = peer is not None and clients > 1
    rate = f"MLServer {number(peer.rate)}: {best.rate / peer.rate:.1f} x" if peer else ""
    p50, p99 = min(run.p50_ms for run in mine), min(run.p99_ms for run in mine)
    beside = {
        q: f"MLServer {number(getattr(peer, q))}: {v / getattr(peer, q):.2f} x" if peer else ""
        for q, v in (("p50_ms", p50), ("p99_ms", p99))
    }
    out = [Row(what, best.rate, "1/s", ">=" if bounded else "", 4 * peer.rate if peer and bounded else 0.0, rate)]
    out.append(Row(f"{what}: p50", p50, "ms", "<=" if clients == 1 else "", 0.8, beside["p50_ms"]))
    bound, limit = {16: ("<=", 4.0), 64: ("<=" if peer else "", peer.p99_ms / 4 if peer else 0.0)}.get(
        clients, ("", 0.0)
    )
    out.append(Row(f"{what}: p99", p99, "ms", bound, limit, beside["p99_ms"]))
    out.append(Row(f"{what}: not answered with 200", sum(run.bad for run in mine), "", "<=", 0.0))
    return out
