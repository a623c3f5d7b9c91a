"""Throughput against devices. `python -m tests.bench scaling` prints the rows. Each device is a process of its own."""

from __future__ import annotations

from tests.bench.openloop import load
from tests.bench.sleeper import SERVICE_S, fleet, push
from tests.bench.table import Row
from tests.bench.tree import Tree

DEVICES = ((1, 0.0), (2, 0.95), (4, 0.95), (8, 0.95), (32, 0.85))
"""How many, and the least share of so many times what one does."""
CALLERS = 4
"""For each device."""
WARM_S, SECONDS = 2.0, 6.0


def rows() -> list[Row]:
    """Answers a second, all devices busy."""
    table: list[Row] = []
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        url, there, one = edge.field("http"), 0, 0.0
        for count, share in DEVICES:
            procs = fleet(tree, count - there, there)
            if not there:
                push(tree)
            there = count
            tree.serving(url, count)
            before = edge.cpu_s()
            rate, wrong = _rate(tree, url, count)
            one = one or rate
            used = (edge.cpu_s() - before) / (WARM_S + SECONDS)
            beside = f"{rate / one / count:.3f} of linear; edge {used:.2f} cores, {procs[0].rss():.0f} MiB a device"
            what = f"{count} device{'s' if count > 1 else ''} of {SERVICE_S * 1000:g} ms"
            table.append(Row(what, rate, "1/s", ">=" if share else "", share * count * one, beside))
            if wrong:
                table.append(Row(f"{what}: not answered, or wrong", float(wrong), "", "<=", 0.0))
    return table


def _rate(tree: Tree, url: str, devices: int) -> tuple[float, int]:
    """Answers a second after a moment to warm up, and how many were none."""
    seen = load(f"{url}/v2/models/mlp/infer", tree.path, callers=CALLERS * devices, seconds=WARM_S + SECONDS)
    begun = min(one.due for one in seen) + WARM_S
    ends = [one.due + one.took for one in seen if one.status == 200]
    done = sum(begun <= end < begun + SECONDS for end in ends)
    return done / SECONDS, sum(one.status != 200 for one in seen)
