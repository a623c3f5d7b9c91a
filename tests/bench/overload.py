"""More than the devices can do, and copies for a shadow. `python -m tests.bench overload` prints the rows."""

from __future__ import annotations

import time

from tests.bench.openloop import Seen, load
from tests.bench.sleeper import SERVICE_S, fleet, push
from tests.bench.stats import median_ratio, percentile_ms
from tests.bench.table import Row
from tests.bench.tree import Tree, until
from tests.bench.updates import variant

DEVICES = 8
CAPACITY = DEVICES / SERVICE_S
DEADLINE_S, WARM_S, SECONDS = 0.5, 3.0, 15.0
PAIRS, PAIR_S, SHADOW_SHARE = 10, 6.0, 0.15
SETTLE_S = 0.7


def rows() -> list[Row]:
    """Overload first, then pairs with and without a shadow."""
    with Tree() as tree:
        url = tree.edge("edge", "north").field("http")
        fleet(tree, DEVICES)
        push(tree)
        tree.serving(url, DEVICES)
        infer = f"{url}/v2/models/mlp/infer"
        return _overload(tree, infer) + _shadow(tree, infer)


def _overload(tree: Tree, url: str) -> list[Row]:
    seen = load(url, tree.path, rate=3 * CAPACITY, seconds=WARM_S + SECONDS, deadline_s=DEADLINE_S)
    begun = min(one.due for one in seen) + WARM_S
    seen = [one for one in seen if one.due >= begun]
    admitted = [one for one in seen if one.status != 503]
    good = [one for one in admitted if one.status == 200 and one.took <= DEADLINE_S]
    refused = percentile_ms([one.took for one in seen if one.status == 503], 99)
    late = percentile_ms([one.took for one in admitted], 99.9)
    what = f"{DEVICES} devices of {SERVICE_S * 1000:g} ms, 3x capacity, deadline {DEADLINE_S * 1000:g} ms"
    share = len(good) / len(admitted) if admitted else float("nan")
    return [
        Row(f"{what}: goodput of capacity", len(good) / SECONDS / CAPACITY, "", ">=", 0.9,
            f"{len(seen):,} requests; refused within {refused:.0f} ms (p99)"),
        Row(f"{what}: admitted within deadline", share, "", ">=", 0.999, f"p99.9 {late:.0f} ms"),
        Row(f"{what}: wrong", float(sum(one.status == -1 for one in seen)), "", "<=", 0.0),
    ]  # fmt: skip


def _shadow(tree: Tree, url: str) -> list[Row]:
    file = tree.path / "mlp2.onnx"
    file.write_bytes(variant(1))
    tree.cli("model", "push", str(file), "--name", "mlp")
    tree.cli("model", "policy", "mlp", "--shadow", "2")
    until("the shadow sees copies", lambda: _copied(tree, url), 60)
    pairs: list[tuple[float, float]] = []
    failed = 0
    for number in range(PAIRS):
        found = {}
        for on in (True, False) if number % 2 else (False, True):
            tree.cli("model", "policy", "mlp", "--shadow", "2" if on else "off")
            time.sleep(SETTLE_S)  # edges follow within moments
            seen = _primary(tree, url, PAIR_S)
            failed += sum(one.status != 200 for one in seen)
            found[on] = percentile_ms([one.took for one in seen], 99)
        pairs.append((found[True], found[False]))
    ratio, low, high = median_ratio(pairs)
    what = f"shadow at 100 %, {DEVICES} devices of {SERVICE_S * 1000:g} ms at {SHADOW_SHARE:.0%} load"
    beside = f"95 % interval {low:.2f} to {high:.2f} of {PAIRS} pairs; without {min(off for _, off in pairs):.1f} ms"
    return [
        Row(f"{what}: p99 with over without", ratio, "x", "<=", 1.15, beside),
        Row(f"{what}: failed or wrong", float(failed), "", "<=", 0.0),
    ]


def _copied(tree: Tree, url: str) -> bool:
    _primary(tree, url, 1.0)
    return '"compared": 0' not in (shown := tree.cli("model", "shadow", "mlp", "--json")) and "{" in shown


def _primary(tree: Tree, url: str, seconds: float) -> list[Seen]:
    return load(url, tree.path, rate=SHADOW_SHARE * CAPACITY, seconds=seconds)
