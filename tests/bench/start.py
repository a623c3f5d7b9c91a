"""From the command to `ready`: joining for the first time, and starting again. `python -m tests.bench start`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.bench.table import Row
from tests.bench.tree import Tree

TRIES = 3


def rows() -> list[Row]:
    """Medians; the bare import of the heaviest libraries in the same run is what no node can beat."""
    with Tree() as tree:
        edges = [tree.edge(f"e{n}", "north").seconds for n in range(TRIES)]
        zmq = [tree.device(f"d{n}", "north").seconds for n in range(TRIES)]
        mqtt = [tree.device(f"m{n}", "north", "--link", "mqtt").seconds for n in range(TRIES)]
        again = []
        for n in range(TRIES):
            tree.procs[f"e{n}"].stop()
            again.append(tree.start(f"e{n}", "edge", "join").seconds)
        floor = statistics.median(map(_bare, ("numpy, zmq, msgspec, cryptography, uvicorn", "numpy, onnxruntime, zmq")))
        beside = f"importing its libraries alone {floor:.2f} s"
        return [
            Row("start: `msrt edge join` to ready", statistics.median(edges), "s", "<=", 2.0, beside),
            Row("start: `msrt device join` to ready, ZeroMQ", statistics.median(zmq), "s", "<=", 2.0, beside),
            Row("start: `msrt device join` to ready, MQTT", statistics.median(mqtt), "s", "<=", 2.0, beside),
            Row("start: an edge again, without the invite", statistics.median(again), "s"),
            Row("start: cloud, keys and state made", tree.procs["cloud"].seconds, "s"),
        ]


def _bare(modules: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - began
