"""What it costs that an edge sees the sum alone: 64 nodes, 1 M parameters, six of them lost after keys were shared.

The computing of both sides in this process, with the code that devices and edges run: CPU seconds, which a busy machine
does not stretch. Plain is the same way of an update without masks: encoded, hashed by its sender, hashed again by its
receiver, checked, added. And rounds of a real tree of eight devices over CURVE, plain and masked in turn.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from msrt.learning.aggregate import RunningSum, check
from msrt.learning.compress import ErrorFeedback, open_codec
from msrt.learning.secure_aggregation.fixed import add
from msrt.learning.secure_aggregation.unmask import unmask
from tests.bench.rounds import DEVICES, TASK
from tests.bench.table import Row
from tests.bench.tree import Tree
from tests.runtime.learning.secure_aggregation.exchange import Exchange, update

NODES, SIZE, LOST = 64, 1_000_000, 6
PAIRS = 3
ROUNDS = 6
METRICS = {"loss": 1.0, "accuracy": 0.5}
JOB = """
name = "{name}"
task = "task:Nothing"
rounds = {rounds}
deadline_s = 120.0
quorum = 1.0
min_nodes = {devices}
compression = "fp32"
{secure}
[options]
size = {size}
"""


class Cost:
    """CPU seconds of the edge, and of all devices together."""

    def __init__(self) -> None:
        self.edge = self.devices = 0.0

    @contextmanager
    def of(self, side: str) -> Any:
        began = time.process_time()
        yield
        setattr(self, side, getattr(self, side) + time.process_time() - began)


class Timed(Exchange):
    """An exchange that knows what each side of it cost."""

    def __init__(self, seed: int) -> None:
        self.cost = Cost()
        with self.cost.of("devices"):
            super().__init__(NODES, {"upload": range(LOST)}, seed, dropouts=LOST / NODES)

    def tell(self, event: Any) -> None:
        with self.cost.of("edge"):
            actions = self.server.handle(event, self.now)
        self.perform(actions)

    def to_device(self, node: str, message: Any) -> None:
        with self.cost.of("devices"):
            actions = self.clients[node].handle(message)
        for action in actions:
            if hasattr(action, "message"):
                self.hear(node, action.message)


def _masked(updates: list[np.ndarray], seed: int) -> tuple[Cost, bool]:
    """A whole exchange; its cost, and whether its sum is that of the bare payloads to the last bit."""
    one = Timed(seed)
    one.keys()
    fixed = one.fixed(SIZE)
    total, bare = memoryview(bytearray(fixed.bytes)), memoryview(bytearray(fixed.bytes))
    for node, client in one.clients.items():
        number = one.numbers[node]
        if number < LOST:
            continue
        with one.cost.of("devices"):
            payload = client.mask(updates[number], 1 + number, METRICS)
            sent = hashlib.sha256(payload).digest()
        with one.cost.of("edge"):
            assert hashlib.sha256(payload).digest() == sent
            add(payload, total, 32)
        add(fixed.encode(updates[number], 1 + number, METRICS, client.dice), bare, 32)
        one.payloads[node] = payload[:0]
    one.reveal()
    with one.cost.of("edge"):
        unmask(total, one.work)
        same = bytes(total) == bytes(bare)
        fixed.decode(total)
    return one.cost, same


def _plain(updates: list[np.ndarray], name: str) -> Cost:
    """The same updates in the open."""
    cost, codec = Cost(), open_codec(name, SIZE)
    feedbacks = [ErrorFeedback(codec, number) for number in range(NODES)]
    total = RunningSum(SIZE)
    for number in range(LOST, NODES):
        with cost.of("devices"):
            payload = feedbacks[number].encode(updates[number], 1)
            sent = hashlib.sha256(payload).digest()
        with cost.of("edge"):
            assert hashlib.sha256(payload).digest() == sent
            check(payload, codec)
            total.add(payload, codec, 1 + number)
    with cost.of("edge"):
        total.mean()
    return cost


def _computed() -> list[Row]:
    """In this process."""
    updates = [update(number, SIZE) for number in range(NODES)]
    runs: list[tuple[Cost, Cost, Cost]] = []
    exact = True
    for pair in range(PAIRS):
        masked, same = _masked(updates, pair)
        exact = exact and same
        runs.append((masked, _plain(updates, "fp32"), _plain(updates, "int8")))

    def row(what: str, of: Callable[[Cost], float], limit: float = 0.0) -> Row:
        secure, fp32, int8 = (median(of(run[at]) for run in runs) for at in range(3))
        beside = f"{1000 * secure:.0f} ms CPU; plain float32 {1000 * fp32:.0f}, int8 {1000 * int8:.0f} ms"
        return Row(what, median(of(m) / of(p) for m, p, _ in runs), "x", "<=" if limit else "", limit, beside)

    who = f"{NODES} nodes, {LOST} lost, 1 M parameters"
    return [
        Row(f"secure aggregation, {who}: sums that are exact", float(exact), "of 1", ">=", 1.0, f"{PAIRS} exchanges"),
        row("its edge's computing over plain float32's (hash, add, masks off)", lambda cost: cost.edge, 3.0),
        row("one device's computing over plain float32's (keys, masks, hash)", lambda c: c.devices / (NODES - LOST)),
        row("all of them, one after another, without a network", lambda c: c.edge + c.devices, 3.0),
    ]


def _job(tree: Tree, name: str, secure: str) -> list[float]:
    """Seconds from one checkpoint to the next."""
    folder = tree.path / name
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    text = JOB.format(name=name, rounds=ROUNDS, devices=DEVICES, secure=secure, size=SIZE)
    (folder / "job.toml").write_text(text)
    report = tree.path / f"{name}.json"
    tree.cli("train", "run", str(folder), "--report", str(report))
    walls = [row["wall"] for row in json.loads(report.read_text())["rounds"]]
    return [after - before for before, after in pairwise(walls)]


def _real() -> list[Row]:
    """Whole rounds of real processes."""
    with Tree() as tree:
        tree.edge("edge", "north")
        for number in range(DEVICES):
            tree.device(f"device{number}", "north")
        _job(tree, "warm", "")
        plain = median(_job(tree, "plain", ""))
        masked = median(_job(tree, "masked", "[secure]\ndropouts = 0.1"))
        plain = (plain + median(_job(tree, "plain-again", ""))) / 2
    beside = f"{1000 * masked:.0f} ms a round, plain float32 {1000 * plain:.0f} ms"
    what = f"a whole round, {DEVICES} real devices, 1 M parameters, over a plain one"
    return [Row(what, masked / plain, "x", "<=", 3.0, beside)]


def rows() -> list[Row]:
    """Ratios to plain."""
    return [*_computed(), *_real()]


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(f"{row.what:76} {row.value:.3g} {row.unit} {row.bound} {row.limit} {row.peer}\n")
