"""What it costs to be seen: metrics read and traces sampled, against an edge that does neither, pair by pair.

`python -m tests.bench watching` prints the rows. Needs wrk on PATH. The counters behind /metrics have no switch: every
edge counts, for it balances, admits and ejects by the same figures. What a user can leave out, and what is measured, is
that anybody reads them, the device's listener of its own, and spans.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from statistics import median

from tests.bench import load, peers
from tests.bench.load import Answer, Ask
from tests.bench.stats import median_ratio
from tests.bench.table import Row, number
from tests.bench.tree import Proc, Tree

CLIENTS = 16
SECONDS = 2
PAIRS = int(os.environ.get("BENCH_PAIRS", "14"))
OFF, SAMPLED, ALL = "off", "1 %", "100 %"
SHARES = {SAMPLED: "0.01", ALL: "1"}
KEPT = 0.95


def rows() -> list[Row]:
    """Requests a second with, over without."""
    if not load.PRESENT:
        return [Row("metrics read, 1 % traced", None, "", peer=load.MISSING)]
    with Tree() as tree:
        took = Answer(200, {"content-type": "application/x-protobuf", "content-length": "0"}, b"")
        tree.procs["collector"], collector = peers.start(peers.floor(took), tree.path / "collector")
        edges = _edges(tree, collector.url.removesuffix("/"))
        tree.push()
        for edge in edges.values():
            tree.serving(edge.field("http"))
            load.load(_ask(edge), CLIENTS, tree.path, 1)
        # not all three in turn: what 100 % leaves to send would be paid by the 1 % that follows
        sampled = _pairs(edges, SAMPLED, PAIRS, tree)
        full = _pairs(edges, ALL, max(PAIRS // 2, 1), tree)
    return [_row(SAMPLED, sampled, KEPT), _row(ALL, full, 0.0)]


def _edges(tree: Tree, collector: str) -> dict[str, Proc]:
    """One a region, so that each has a device of its own; only the load tells them apart in what they do."""
    edges = {OFF: tree.edge("off", "off")}
    tree.device("device-off", "off", "--metrics", "off")
    for at, (name, share) in enumerate(SHARES.items()):
        region = f"on{at}"
        edges[name] = tree.edge(region, region, "--trace", collector, "--set", f"trace_share={share}")
        tree.device(f"device-{region}", region)
    return edges


def _ask(edge: Proc) -> Ask:
    return Ask(f"{edge.field('http')}/v2/models/mlp/infer")


def _pairs(edges: Mapping[str, Proc], name: str, count: int, tree: Tree) -> list[tuple[float, float]]:
    """Rates with and without, every second pair in the other order: what grows with time weighs on both alike."""
    pairs: list[tuple[float, float]] = []
    for turn in range(count):
        order = (name, OFF) if turn % 2 else (OFF, name)
        rates = {which: _cell(edges[which], tree, read=which != OFF) for which in order}
        pairs.append((rates[name], rates[OFF]))
    return pairs


def _cell(edge: Proc, tree: Tree, *, read: bool) -> float:
    """Requests a second; in the middle of it somebody may read the metrics."""
    reader = threading.Timer(SECONDS / 2, _read, (edge.field("http"),))
    if read:
        reader.start()
    run = load.load(_ask(edge), CLIENTS, tree.path, SECONDS)
    if read:
        reader.join()
    if run.bad:
        raise RuntimeError(f"{run.bad} requests failed")
    return run.rate


def _read(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as page:
        page.read()


def _row(name: str, pairs: Sequence[tuple[float, float]], bar: float) -> Row:
    value, low, high = median_ratio(pairs)
    beside = f"off {number(median(off for _, off in pairs))} 1/s; 95 % of {len(pairs)} pairs: {low:.3f} to {high:.3f}; "
    beside += "counters have no switch and count in both"
    what = f"metrics read every {SECONDS} s and {name} of requests traced, {CLIENTS} clients, over off"
    return Row(what, value, "x", ">=" if bar else "", bar, beside)
