"""Devices that differ, on real processes: a slow one, one that dies, some that are not asked."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from msrt.inference.engine import Engine
from tests.bench.tree import Tree, until

DIGITS = Path(__file__).parents[2] / "deploy" / "examples" / "digits"
DEVICES = ("d1", "d2", "d3")
SLOW = """
import time
from task import Digits

class Slow(Digits):
    def data(self, node):
        self.index = node.index
        return super().data(node)

    def loss(self, model, batch):
        if model.training and self.index == 0:
            time.sleep(0.25)
        return super().loss(model, batch)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house():
    with Tree() as tree:
        tree.edge("e1", "north")
        for name in DEVICES:
            tree.device(name, "north")
        until("the cloud sees all devices", lambda: living(tree) >= set(DEVICES))
        yield tree


def living(tree):
    return {row["name"] for row in json.loads(tree.cli("node", "list", "--json")) if row["alive"]}


def bundle(folder, name, text, source=""):
    """The example with other settings, and a task on top where there is one."""
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "slow.py").write_text(source)
    task = "slow:Slow" if source else "task:Digits"
    (folder / "job.toml").write_text(f'name = "{name}"\ntask = "{task}"\nmin_nodes = 3\n{text}')
    return folder


def report(tree, folder, path):
    """Run it to its end; what is said of it then."""
    tree.cli("train", "run", str(folder), "--watch", "--report", str(path))
    return json.loads(path.read_text())


def test_a_slow_device_sends_what_it_has_done_while_it_is_waited_for(house, tmp_path):
    """It would need half a minute for its epochs: every round has it, with a part of them, long before the deadline."""
    text = "rounds = 3\ndeadline_s = 20.0\nquorum = 0.5\n[train]\nepochs = 4\nbatch = 16\n[pace]\npartial = true\n"
    told = report(house, bundle(tmp_path / "job", "slow", text, SLOW), tmp_path / "report.json")
    rows = told["rounds"]
    assert [row["nodes"] for row in rows] == [3, 3, 3]
    assert all(0.3 < row["work"] < 1.0 for row in rows), rows
    assert all(row["seconds"] < 18.0 for row in rows), rows


def test_heads_and_controls_stay_with_a_device_that_is_killed(house, tmp_path):
    """SCAFFOLD with heads of their own, two of three asked in each round; one is SIGKILLed and goes on with its own."""
    text = (
        "rounds = 10\ndeadline_s = 60.0\nquorum = 1.0\n[sampling]\ncount = 2\nfairness = 1\n"
        '[train]\nepochs = 4\nbatch = 16\nlr = 0.1\nmomentum = 0.0\nalgorithm = "scaffold"\nkeep_local = ["4.*"]\n'
    )
    folder = bundle(tmp_path / "job", "heads", text)
    job = house.cli("train", "run", str(folder)).split()[-1]

    def done():
        return json.loads(house.cli("train", "status", "heads", "--json"))[0]["round"]

    until("it is under way", lambda: done() >= 4, 60)
    house.procs["d1"].signal(signal.SIGKILL)
    house.procs["d1"].popen.wait()
    kept = {path.name.partition("-")[0] for path in (house.path / "d1").rglob("*.f32")}
    assert kept >= {"head", "control"}
    house.start("d1", "device", "join")
    until("it is over", lambda: done() == 10, 90)
    house.cli("train", "status", "heads", "--report", str(tmp_path / "report.json"))
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["state"], job) == ("finished", "heads")
    assert [(row["asked"], row["eligible"]) for row in told["rounds"]] == [(2, 3)] * 10
    assert {row["name"] for row in told["nodes"]} == set(DEVICES)
    worst = [row["accuracy"] for row in told["nodes"]]
    assert worst == sorted(worst)
    shown = json.loads(house.cli("train", "status", "heads", "--nodes", "--json"))
    assert shown == told["nodes"]
    assert told["parameters"] == 64 * 192 + 192 + 192 * 64 + 64
    assert max(row["accuracy"] for row in told["rounds"]) > 0.85, told["rounds"]  # a head that sat out is stale


def test_a_node_serves_its_own_model_and_its_layers_stay_there(house, tmp_path):
    """What d1 has of the job serves on d1 alone, its file is nowhere else; what d2 has is brought when asked for."""
    text = 'rounds = 2\nquorum = 1.0\n[train]\nepochs = 1\nbatch = 16\nkeep_local = ["4.*"]\n'
    report(house, bundle(tmp_path / "job", "own", text), tmp_path / "report.json")
    said = json.loads(house.cli("train", "serve", "own", "--node", "d1", "--json"))
    assert (said["model"], said["version"], said["matching"]) == ("own-d1", 1, 1)

    def done():
        rows = json.loads(house.cli("model", "list", "--json"))
        return [row for row in rows if row["model"] == "own-d1" and row["rollout"] == "1 done"]

    until("it serves", done, 60)
    assert {path.parts[len(house.path.parts)] for path in house.path.rglob(said["digest"])} == {"d1"}
    np.save(tmp_path / "x.npy", np.zeros((2, 64), np.float32))
    answer = json.loads(house.cli("infer", "own-d1", str(tmp_path / "x.npy"), "--json"))
    files = {}
    for name in ("d1", "d2"):
        house.cli("train", "export", "own", "--onnx", str(tmp_path / f"{name}.onnx"), "--node", name)
        files[name] = (tmp_path / f"{name}.onnx").read_bytes()
    assert hashlib.sha256(files["d1"]).hexdigest() == said["digest"]
    assert len(files["d1"]) == len(files["d2"])
    assert files["d1"] != files["d2"]
    told = Engine().load(files["d1"]).run({"input": np.zeros((2, 64), np.float32)})[0]
    assert np.allclose(np.asarray(next(iter(answer["outputs"].values()))), told, atol=1e-4), answer
