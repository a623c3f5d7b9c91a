"""Resident memory of each tier's process, warm. `python -m tests.bench memory` prints the rows."""

from __future__ import annotations

import time

from tests.bench.table import Row
from tests.bench.tree import BODY, Tree, post

WARM = 500


def rows() -> list[Row]:
    """One small model on both links; the cloud at rest is measured before anything has joined, and after."""
    with Tree() as tree:
        time.sleep(1.0)
        table = [Row("resident: cloud at rest, nothing joined", tree.procs["cloud"].rss(), "MiB", "<=", 130.0)]
        edge = tree.edge("edge", "north")
        tree.device("zmq", "north")
        tree.device("mqtt", "north", "--link", "mqtt")
        tree.push()
        url = edge.field("http")
        tree.serving(url, devices=2)
        for _ in range(WARM):
            post(f"{url}/v2/models/mlp/infer", BODY)
        procs = tree.procs
        table += [
            Row("resident: device with a small model, ZeroMQ", procs["zmq"].rss(), "MiB", "<=", 96.0),
            Row("resident: device with a small model, MQTT", procs["mqtt"].rss(), "MiB", "<=", 100.0),
            Row(
                f"resident: edge after {WARM} requests (its broker is a process of its own)",
                edge.rss(),
                "MiB",
                "<=",
                110.0,
            ),
            Row("resident: cloud after a push and a rollout", procs["cloud"].rss(), "MiB", "<=", 130.0),
        ]
        return table
