"""One slow device among eight, against what plain proxies do. `python -m tests.bench balance` prints the rows."""

from __future__ import annotations

import sys
import threading

from tests.bench.openloop import Load, Seen
from tests.bench.sleeper import SERVICE_S, fleet, push, set_pace
from tests.bench.stats import percentile_ms
from tests.bench.table import Row
from tests.bench.tree import Proc, Tree

DEVICES, TIMES = 8, 10.0
RATE = 0.6 * (DEVICES - 1 + 1 / TIMES) / SERVICE_S
WARM_S, SECONDS, SWING_S = 3.0, 20.0, 3.0


def rows() -> list[Row]:
    """A device that is always slow, and one that is slow now and then."""
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        fleet(tree, DEVICES)
        push(tree)
        tree.serving(edge.field("http"), DEVICES)
        ours_slow, ours_swing = _measured(tree, edge, swing=False), _measured(tree, edge, swing=True)
        robin = _measured(tree, _restarted(tree, "round_robin"), swing=False)
        least = _measured(tree, _restarted(tree, "least_requests"), swing=True)
    what = f"{DEVICES} devices of {SERVICE_S * 1000:g} ms, 60 % load"
    return [
        _row(f"{what}, one {TIMES:g}x slower: p99", ours_slow, robin, "round robin", 3),
        _row(f"{what}, one {TIMES:g}x slower {SWING_S:g} s of {2 * SWING_S:g}: p99", ours_swing, least,
             "least requests", 2),
        Row("the same: failed or wrong", float(sum(s.status != 200 for s in ours_slow + ours_swing)), "", "<=", 0.0),
    ]  # fmt: skip


def _row(what: str, ours: list[Seen], theirs: list[Seen], name: str, times: int) -> Row:
    peer = percentile_ms([s.took for s in theirs], 99)
    failed = sum(s.status != 200 for s in theirs)
    beside = f"{name} {peer:,.0f} ms, {failed} failed; p50 {percentile_ms([s.took for s in ours], 50):.1f} ms"
    return Row(what, percentile_ms([s.took for s in ours], 99), "ms", "<=", peer / times, beside)


def _restarted(tree: Tree, policy: str) -> Proc:
    """The same edge, balancing in another way."""
    tree.procs["edge"].stop()
    argv = [sys.executable, "-m", "tests.bench.baseline", policy, "edge", "join", "--state", str(tree.path / "edge")]
    edge = tree.procs["edge"] = Proc(argv, tree.path / f"{policy}.log")
    edge.ready()
    set_pace(tree, "d0", SERVICE_S)
    tree.serving(edge.field("http"), DEVICES)
    return edge


def _measured(tree: Tree, edge: Proc, *, swing: bool) -> list[Seen]:
    """What came after it had a moment to learn."""
    over = threading.Event()

    def antagonist() -> None:
        slow = True
        while not over.wait(SWING_S):
            set_pace(tree, "d0", SERVICE_S * (TIMES if slow else 1))
            slow = not slow

    set_pace(tree, "d0", SERVICE_S if swing else SERVICE_S * TIMES)
    other = threading.Thread(target=antagonist)
    if swing:
        other.start()
    try:
        url = f"{edge.field('http')}/v2/models/mlp/infer"
        seen = Load(url, tree.path, rate=RATE, seconds=WARM_S + SECONDS).result()
    finally:
        over.set()
        if swing:
            other.join()
    begun = min(one.due for one in seen) + WARM_S
    return [one for one in seen if one.due >= begun]
