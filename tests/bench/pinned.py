"""A model that keeps a processor busy: the device on one core, everything else on the other, beside onnxruntime alone
on that core. `python -m tests.bench pinned` prints the rows. Needs wrk on PATH, and two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.bench import load
from tests.bench.serving import ROUNDS, SECONDS
from tests.bench.stats import median_ratio
from tests.bench.table import Row, number
from tests.bench.tree import Tree

WHAT = "a CPU-bound model, device on one core of its own, over onnxruntime alone on that core"
SHARE = 0.9
CALL_S = 0.006
"""What one call must cost at least, with room above the 5 ms of the row."""
CLIENTS = 4
CHANNELS, SIDE = 48, 32
BARE = """
import sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
x = numpy.load(sys.argv[2])
for _ in range(20):
    session.run(None, {"x": x})
count, began = 0, time.perf_counter()
while time.perf_counter() - began < float(sys.argv[3]):
    session.run(None, {"x": x})
    count += 1
print(count / (time.perf_counter() - began))
"""


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on this core and no other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rows() -> list[Row]:
    """Served over bare, pair by pair."""
    cores = sorted(os.sched_getaffinity(0))
    if not load.PRESENT or len(cores) < 2:
        return [Row(WHAT, None, "", peer="skipped: one core only" if load.PRESENT else load.MISSING)]
    with on_core(cores[0]), Tree() as tree:
        edge = tree.edge("edge", "north")
        with on_core(cores[1]):
            tree.device("device", "north")
        model, inputs = tree.path / "heavy.onnx", tree.path / "x.npy"
        x = np.random.default_rng(3).normal(size=(1, 1, SIDE, SIDE)).astype(np.float32)
        np.save(inputs, x)
        call_s = _fitted(model, inputs, cores[1])
        tree.cli("model", "push", str(model), "--name", "heavy")
        tree.cli("model", "rollout", "heavy", "--canary", "50%", "--window", "1")
        ask = load.binary(f"{edge.field('http')}/v2/models/heavy/infer", "x", x)
        load.answered(ask)
        load.load(ask, CLIENTS, tree.path, 1)
        pairs, bad = [], 0
        for _ in range(ROUNDS):
            run = load.load(ask, CLIENTS, tree.path, SECONDS)
            pairs.append((run.rate, _bare(model, inputs, cores[1], SECONDS)))
            bad += run.bad
    value, low, high = median_ratio(pairs)
    served, bare = (median(side) for side in zip(*pairs, strict=True))
    beside = (
        f"served {number(served)}, bare {number(bare)} 1/s of {call_s * 1000:.1f} ms; 95 %: {low:.3f} to {high:.3f}"
    )
    return [
        Row(WHAT, value, "x", ">=", SHARE, beside),
        Row("a CPU-bound model: not answered with 200", bad, "", "<=", 0.0),
    ]


def _fitted(model: Path, inputs: Path, core: int) -> float:
    """Write a model deep enough to cost CALL_S here; returns what it costs."""
    layers = 4
    while True:
        model.write_bytes(heavy(layers))
        call_s = 1 / _bare(model, inputs, core, 0.5)
        if call_s >= CALL_S:
            return call_s
        layers = max(layers + 1, int(layers * 1.1 * CALL_S / call_s))


def _bare(model: Path, inputs: Path, core: int, seconds: float) -> float:
    """Calls a second of onnxruntime in a process of its own."""
    with on_core(core):
        argv = [sys.executable, "-c", BARE, str(model), str(inputs), str(seconds)]
        return float(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout)


def heavy(layers: int) -> bytes:
    """Convolutions one after the other, of one row a call: nothing is gained by a batch."""
    generator = np.random.default_rng(4)

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        scale = float(np.sqrt(2 / np.prod(shape[1:])))
        return numpy_helper.from_array((generator.normal(size=shape) * scale).astype(np.float32), name)

    weights, nodes, last = [], [], "x"
    for at in range(layers):
        weights.append(drawn(f"w{at}", CHANNELS, CHANNELS if at else 1, 3, 3))
        nodes.append(helper.make_node("Conv", [last, f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"]))
        last = f"r{at}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
