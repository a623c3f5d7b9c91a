"""HTTP inference through an edge and a device, each a process, beside its peers and the floor, cell by cell in turn.

`python -m tests.bench serving` prints the rows. Needs wrk on PATH. BENCH_ROUNDS and BENCH_SECONDS
make it shorter or longer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

from tests.bench import load, peers
from tests.bench.load import Ask, Run
from tests.bench.peers import FASTAPI, MLSERVER, RAY, Peer
from tests.bench.stats import median_ratio
from tests.bench.table import Row, number
from tests.bench.tree import Proc, Tree

CLIENTS = (1, 16, 64)
SECONDS = int(os.environ.get("BENCH_SECONDS", "3"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
OURS = "ours"
FLOOR = "raw ASGI floor"
BARS = {"MLServer": 6.0, "FastAPI": 2.0, "Ray Serve": 50.0, FLOOR: 0.33}
"""Times the peer's requests a second, at 16 clients and at 64."""
P99_MS = {16: 3.0, 64: 10.0}
P99_SHARE = 0.1
"""Of MLServer's p99, at 64 clients."""

Cells = Mapping[str, Sequence[Run]]


def rows() -> list[Row]:
    """Requests a second and latencies, and each peer's share."""
    if not load.PRESENT:
        return [Row("HTTP infer", None, "", peer=load.MISSING)]
    missing = {peer.name: peers.install(peer) for peer in (MLSERVER, FASTAPI, RAY)}
    table = [Row(f"HTTP infer beside {name}", None, "", peer=f"skipped: {why}") for name, why in missing.items() if why]
    with Tree() as tree:
        edge, device = tree.edge("edge", "north"), tree.device("device", "north")
        tree.push()
        tree.serving(edge.field("http"))
        ours = Ask(f"{edge.field('http')}/v2/models/mlp/infer")
        watched = (edge, device)
        together = [peer for peer in (MLSERVER, FASTAPI) if not missing[peer.name]]
        table += _beside(tree, ours, [*together, peers.floor(load.answered(ours), FLOOR)], CLIENTS, watched)
        if not missing[RAY.name]:  # alone: what Ray does while nobody asks would be paid by the others
            table += _beside(tree, ours, [RAY], CLIENTS[1:], watched, alone=True)
    return table


def _beside(
    tree: Tree, ours: Ask, them: Sequence[Peer], clients: Sequence[int], watched: Sequence[Proc], *, alone: bool = False
) -> list[Row]:
    """The rows of these peers, which are gone afterwards; ours too, unless only the peer is asked for."""
    asks, procs = {OURS: ours}, []
    try:
        for peer in them:
            proc, asks[peer.name] = peers.start(peer, tree.path / peer.name.split()[0].lower())
            procs.append(proc)
        for ask in asks.values():
            load.load(ask, 16, tree.path, 1)
        table: list[Row] = []
        for count in clients:
            cells = interleaved(asks, count, tree, watched)
            table += ([] if alone else _own(count, cells)) + _ratios(count, cells)
        return table
    finally:
        for proc in procs:
            proc.stop()


def interleaved(asks: Mapping[str, Ask], clients: int, tree: Tree, watched: Sequence[Proc]) -> dict[str, list[Run]]:
    """One cell of each in turn, and again: what disturbs the machine for a while meets all of them."""
    cells: dict[str, list[Run]] = {name: [] for name in asks}
    for _ in range(ROUNDS):
        for name, ask in asks.items():
            cells[name].append(load.load(ask, clients, tree.path, SECONDS, watched if name == OURS else ()))
    return cells


def _what(clients: int) -> str:
    return f"HTTP infer, {clients} client{'s' if clients > 1 else ''}"


def _own(clients: int, cells: Cells) -> list[Row]:
    what, mine = _what(clients), cells[OURS]
    p50, p99 = median(run.p50_ms for run in mine), median(run.p99_ms for run in mine)
    peer = {name: median(run.p99_ms for run in runs) for name, runs in cells.items() if name != OURS}
    beside = ", ".join(f"{name} {number(value)}" for name, value in peer.items())
    limit = P99_MS.get(clients)
    table = [
        Row(what, median(run.rate for run in mine), "1/s"),
        Row(f"{what}: p50", p50, "ms", "<=" if clients == 1 else "", 0.5),
        Row(f"{what}: p99", p99, "ms", "<=" if limit else "", limit or 0.0, beside),
        Row(f"{what}: not answered with 200", sum(run.bad for run in mine), "", "<=", 0.0),
        *(
            Row(f"{what}: CPU of the {name} a request", median(run.cpu_us[at] for run in mine), "us")
            for at, name in enumerate(("edge", "device"))
        ),
    ]
    if clients == 64 and MLSERVER.name in peer:
        pairs = [(one.p99_ms, other.p99_ms) for one, other in zip(mine, cells[MLSERVER.name], strict=True)]
        table.append(Row(f"{what}: p99 over MLServer's", median_ratio(pairs)[0], "x", "<=", P99_SHARE))
    return table


def _ratios(clients: int, cells: Cells) -> list[Row]:
    return [
        ratio_row(f"{_what(clients)}, over {name}", cells[OURS], runs, name, BARS[name] if clients > 1 else 0.0)
        for name, runs in cells.items()
        if name != OURS
    ]


def ratio_row(what: str, mine: Sequence[Run], other: Sequence[Run], name: str, bar: float) -> Row:
    """Ours over the other's, pair by pair."""
    value, low, high = median_ratio([(one.rate, two.rate) for one, two in zip(mine, other, strict=True)])
    bad = sum(run.bad for run in other)
    beside = f"ours {number(median(r.rate for r in mine))}, {name} {number(median(r.rate for r in other))} 1/s; "
    beside += f"95 %: {low:.2f} to {high:.2f}" + (f"; {bad} of its answers failed" if bad else "")
    return Row(what, value, "x", ">=" if bar else "", bar, beside)
