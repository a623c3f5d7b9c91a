"""Resident memory of each tier, warm, and of one large model. `python -m tests.bench memory` prints the rows."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from msrt_device.flash.targets.cortex_m import SOURCES
from tests.bench.table import Row
from tests.bench.tree import BODY, Tree, post

WARM = 500
LARGE = """
import gc, json, sys, threading
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from msrt.inference.engine import Engine
from msrt.heap import give_back
from tests.runtime.inference.models import model_of

LAYERS, WIDE = 16, 1024

def file():
    draw = np.random.default_rng(0)
    weights = [numpy_helper.from_array(draw.normal(size=(WIDE, WIDE)).astype(np.float32), f"w{i}")
               for i in range(LAYERS)]
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}" if i + 1 < LAYERS else "y"])
             for i in range(LAYERS)]
    spec = [TensorProto.FLOAT, ["n", WIDE]]
    return model_of(nodes, [("x", *spec)], [("y", *spec)], weights).SerializeToString()

def resident():
    gc.collect()
    give_back()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

if sys.argv[1] == "write":
    open(sys.argv[2], "wb").write(file())
    sys.exit()
engine, models, before = Engine(), [], resident()

def load():
    models.append(engine.load(open(sys.argv[2], "rb").read()))
    models[0].run({"x": np.zeros((1, WIDE), np.float32)})

thread = threading.Thread(target=load)
thread.start()
thread.join()
loaded = resident()
models.clear()
print(json.dumps([before, loaded, resident()]))
"""
"""A model of 64 MiB is loaded as a device does, from a thread, and let go: MiB before, with it, after it."""


def rows() -> list[Row]:
    """One small model on both links, and a board; the cloud at rest is measured before anything has joined, and
    after."""
    with Tree() as tree, contextlib.ExitStack() as stack:
        time.sleep(1.0)
        table = [Row("resident: cloud at rest, nothing joined", tree.procs["cloud"].rss(), "MiB", "<=", 130.0)]
        edge = tree.edge("edge", "north")
        tree.device("zmq", "north")
        tree.device("mqtt", "north", "--link", "mqtt")
        board = _board(tree, stack)
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
        if board:
            table.append(
                Row("resident: a microcontroller's gateway, its board there", procs["gateway"].rss(), "MiB", "<=", 80.0)
            )
        before, loaded, after = _large(str(tree.path / "large.onnx"))
        table += [
            Row("a model of 64 MiB, loaded: resident over its file", (loaded - before) / 64, "x", "<=", 1.3),
            Row("the same, unloaded: resident over what it was before", after - before, "MiB", "<=", 16.0),
        ]
        return table


def _board(tree: Tree, stack: contextlib.ExitStack) -> bool:
    """The firmware's agent as a process of this machine, brought in by its gateway; False without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return False
    units = [str(SOURCES / f"{name}.c") for name in ("agent", "engine", "frame", "kernels", "sha256")]
    units.append(str(Path(__file__).parents[1] / "device/gateway/board_posix.c"))
    agent = str(tree.path / "agent")
    words = ["-std=gnu99", "-O2", '-DMSRT_VERSION="0"', f"-I{SOURCES}"]
    subprocess.run([compiler, *words, *units, "-o", agent], check=True, timeout=60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.fileno()
        board = subprocess.Popen([agent, str(number)], pass_fds=(number,), stdout=subprocess.DEVNULL)
        stack.callback(board.wait)
        stack.callback(board.kill)
        where = f"127.0.0.1:{server.getsockname()[1]}"
        tree.start(
            "gateway", "device", "gateway", "--tcp", where, "--invite", tree.invite("device", "--region", "north")
        )
    return True


def _large(path: str) -> list[float]:
    """Of a process of its own."""
    for what in ("write", "load"):
        done = subprocess.run(
            [sys.executable, "-c", LARGE, what, path], capture_output=True, text=True, timeout=120, check=True
        )
    found: list[float] = json.loads(done.stdout)
    return found
