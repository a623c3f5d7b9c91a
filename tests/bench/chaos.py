"""Devices killed again and again, and one that stops, under open-loop load. `python -m tests.bench chaos` prints the
rows; CHAOS_S in the environment makes it shorter, for a trial."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request

from tests.bench.openloop import Load, Seen
from tests.bench.sleeper import fleet, push, start
from tests.bench.stats import percentile_ms
from tests.bench.table import Row
from tests.bench.tree import Proc, Tree, until

DEVICES, RATE, EVERY_S = 12, 300.0, 5.0
SECONDS = float(os.environ.get("CHAOS_S", "120"))
STEADY_S, AFTER_S = 5.0, 10.0


def rows() -> list[Row]:
    """SIGKILL every few seconds, then one SIGSTOP."""
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        fleet(tree, DEVICES)
        push(tree)
        url = edge.field("http")
        tree.serving(url, DEVICES)
        return _killed(tree, url) + _stopped(tree, url)


def _killed(tree: Tree, url: str) -> list[Row]:
    retried, hedged = _extra(url)
    load = Load(f"{url}/v2/models/mlp/infer", tree.path, rate=RATE, seconds=SECONDS)
    end, kills = time.monotonic() + SECONDS, 0
    time.sleep(EVERY_S / 2)
    while time.monotonic() + EVERY_S < end:
        due, name = time.monotonic() + EVERY_S, f"d{kills % DEVICES}"
        tree.procs[name].popen.kill()
        tree.procs[name].popen.wait()
        start(tree, name)
        kills += 1
        time.sleep(max(0.0, due - time.monotonic()))
    seen = load.result()
    more = [now - before for now, before in zip(_extra(url), (retried, hedged), strict=True)]
    ok, wrong = (sum(one.status == status for one in seen) for status in (200, -1))
    what = f"a device of {DEVICES} killed every {EVERY_S:g} s, {SECONDS:g} s at {RATE:g} requests/s"
    took = [one.took for one in seen]
    return [
        Row(f"{what}: answered", 100 * ok / len(seen), "%", ">=", 99.99, f"{len(seen) - ok} of {len(seen):,} not"),
        Row(f"{what}: wrong", float(wrong), "", "<=", 0.0, f"{kills} kills"),
        Row(f"{what}: extra work", 100 * sum(more) / len(seen), "%", "<=", 10.0,
            f"{more[0]:.0f} retried, {more[1]:.0f} hedged"),
        Row(f"{what}: p99.9", percentile_ms(took, 99.9), "ms", peer=f"longest {max(took) * 1000:.0f} ms"),
    ]  # fmt: skip


def _stopped(tree: Tree, url: str) -> list[Row]:
    tree.serving(url, DEVICES)
    load = Load(f"{url}/v2/models/mlp/infer", tree.path, rate=RATE, seconds=2 * STEADY_S + AFTER_S)
    time.sleep(2 * STEADY_S)
    device: Proc = tree.procs["d1"]
    silent = _stalled(url)
    struck = time.monotonic()
    device.signal(signal.SIGSTOP)
    try:
        until("the edge gives it no more work", lambda: _stalled(url) > silent, AFTER_S)
        ejected = time.monotonic() - struck
        seen = load.result()
    finally:
        device.signal(signal.SIGCONT)
    steady = percentile_ms([one.took for one in seen if struck - STEADY_S <= one.due < struck - 0.5], 99)
    after = [one for one in seen if one.due >= struck - 0.2]
    paid = [one for one in after if _pays(one, steady, struck)]
    last = max((one.due for one in paid), default=struck) - struck
    what = f"a device of {DEVICES} stopped (SIGSTOP) at {RATE:g} requests/s"
    return [
        Row(f"{what}: until it is ejected, by the edge's metrics", ejected, "s", "<=", 1.0),
        Row(f"{what}: last request that pays more than 2x the steady p99", last, "s", "<=", 1.0,
            f"steady p99 {steady:.0f} ms, longest {max(one.took for one in after) * 1000:.0f} ms"),
        Row(f"{what}: requests that pay, of {AFTER_S:g} s", 100 * len(paid) / len(after), "%", "<=", 1.0,
            f"{len(paid)} of {len(after):,}"),
        Row(f"{what}: failed or wrong", float(sum(one.status != 200 for one in seen)), "", "<=", 0.0),
    ]  # fmt: skip


def _pays(one: Seen, steady_ms: float, struck: float) -> bool:
    return one.due + one.took > struck and (one.status != 200 or one.took * 1000 > 2 * steady_ms)


def _extra(url: str) -> tuple[float, float]:
    """Requests that were retried, and hedged, by the edge's own metrics."""
    text = _metrics(url)
    return _metric(text, r'msrt_retries_total\{[^}]*reason="retried"'), _metric(
        text, r'msrt_hedges_total\{[^}]*step="sent"'
    )


def _stalled(url: str) -> float:
    """Times a device fell silent and got no more work."""
    return _metric(_metrics(url), r'msrt_retries_total\{[^}]*reason="stalled"')


def _metrics(url: str) -> str:
    return str(urllib.request.urlopen(f"{url}/metrics", timeout=10).read(), "utf-8")


def _metric(text: str, pattern: str) -> float:
    found = re.search(rf"^{pattern}[^}}]*\}} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise KeyError(pattern)
    return float(found[1])
