"""Canaries by traffic over real processes: a version whose graph fails on real inputs, a slow one, a good one."""

from __future__ import annotations

import json
import subprocess
import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import msrt
from msrt import errors
from tests.bench.tree import MSRT, Tree, until
from tests.processes.test_failover import times

SIZE, DEPTH = 1400, 48
FLOAT = TensorProto.FLOAT

pytestmark = pytest.mark.slow


def graph(nodes, **constants):
    """An ONNX file from x to y, four wide."""
    made = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])], [helper.make_tensor_value_info("y", FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def fragile():
    """Looks a row's sum up in a table: fine on the inputs that it is warmed with, an error where the sum is large."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["found"]),
        helper.make_node("Unsqueeze", ["found", "axis"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    return graph(nodes, axis=np.array([1]), table=np.zeros(100, np.float32))


def slow():
    """The same numbers as the first version after a hundred million multiplications: tens of milliseconds even beside
    others that keep the machine busy."""
    rng = np.random.default_rng(0)
    square = (rng.normal(size=(SIZE, SIZE)) * 0.01).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "widen"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{n}", "square"], [f"h{n + 1}"]) for n in range(DEPTH)]
    nodes += [
        helper.make_node("MatMul", [f"h{DEPTH}", "narrow"], ["none"]),
        helper.make_node("Mul", ["none", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    widen, narrow = np.ones((4, SIZE), np.float32), np.ones((SIZE, 4), np.float32)
    return graph(nodes, widen=widen, square=square, narrow=narrow, zero=np.zeros(1, np.float32))


class Load(threading.Thread):
    """A client that asks without a pause longer than some milliseconds; every third row is a large one."""

    def __init__(self, tree):
        super().__init__(daemon=True)
        self.tree, self.over = tree, threading.Event()
        self.answered, self.failed, self.versions = 0, [], set()

    def run(self):
        with msrt.connect([self.tree.procs["e1"].field("zmq")], state=self.tree.path / "cloud") as client:
            while not self.over.is_set():
                x = np.full((1, 4), 1000.0 if self.answered % 3 == 0 else 1.0, np.float32)
                try:
                    self.versions.add(client.infer("net", {"x": x}).version)
                except errors.MsrtError as error:
                    self.failed.append(error.code)
                self.answered += 1
                time.sleep(0.002)

    def stop(self):
        self.over.set()
        self.join(10)


@pytest.fixture(scope="module")
def house():
    """One region with two devices, and version 1 of `net`."""
    with Tree() as tree:
        tree.edge("e1", "north")
        for name in ("d1", "d2"):
            tree.device(name, "north")
        push(tree, times(1))
        tree.cli("model", "rollout", "net", "--window", "0.3")
        yield tree


@pytest.fixture
def load(house):
    """The only traffic; it has had answers."""
    load = Load(house)
    load.start()
    until("answers", lambda: load.answered > 20)
    yield load
    load.stop()


def push(tree, data):
    file = tree.path / "net.onnx"
    file.write_bytes(data)
    return json.loads(tree.cli("model", "push", str(file), "--name", "net", "--json"))["version"]


def rollout(tree, version, share="40%"):
    """As an operator who waits: exit status, and all that was printed."""
    argv = [MSRT, "model", "rollout", f"net@{version}", "--traffic", share, "--window", "0.3"]
    done = subprocess.run(
        [*argv, "--state", str(tree.path / "cloud")], capture_output=True, text=True, timeout=200, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_version_that_fails_on_real_inputs_goes_back(house, load):
    """It loads and warms on every device; the requests show what it is, and hardly a caller is told of an error."""
    before = load.answered
    code, said = rollout(house, push(house, fragile()))
    assert code == 1, said
    assert "was rolled back: errors" in said
    assert "stable version 0.00%" in said
    assert len(load.failed) <= max(3, 0.02 * (load.answered - before)), load.failed


def test_a_slow_version_goes_back(house, load):
    """Same numbers, no errors; answers later than those of what serves."""
    code, said = rollout(house, push(house, slow()))
    assert code == 1, said
    assert "was rolled back: slow answers" in said
    assert load.failed == []


def test_a_good_version_goes_on_and_the_stats_show_both(house, load):
    """Promoted by its requests; the progress says what is known; `model stats` says who answered, how fast."""
    version = push(house, times(1))
    code, said = rollout(house, version)
    assert code == 0, said
    assert "canary  errors 0.0% of" in said
    assert f"net@{version} done" in said
    load.versions.clear()
    until("the new version answers", lambda: version in load.versions)
    rows = json.loads(house.cli("model", "stats", "net", "--json"))
    assert {row["region"] for row in rows} == {"north"}
    by = {row["version"]: row for row in rows}
    assert by[version]["requests"] > 100
    assert by[version]["errors"] == 0
    assert 0 < by[version]["p50_ms"] <= by[version]["p99_ms"] < 1000
    table = house.cli("model", "stats")
    assert "p99 ms" in table
    assert f"net    {version}" in table


def test_the_edges_metrics_count_the_same(house, load):
    """Prometheus text under both names, by version."""
    load.stop()
    page = subprocess.run(
        ["curl", "-s", f"{house.procs['e1'].field('http')}/metrics"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    count = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"}
    for version in (1, 4):
        labels = f'model="net",version="{version}"'
        assert count[f"nv_inference_request_success{{{labels}}}"] > 0
        assert count[f"nv_inference_request_success{{{labels}}}"] == count[f"msrt_request_seconds_count{{{labels}}}"]
