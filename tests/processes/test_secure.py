"""Secure aggregation by eight real devices, one of them SIGKILLed in the middle of a round, and their edge in another.

Each device moves the model by a constant of its own and counts samples of its own, so a checkpoint says who is in it.
While the door is there nobody ends a round.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from msrt.learning.vector import load
from tests.bench.tree import Tree, until
from tests.processes.test_training import again, checkpoints, living, status, train

ROUNDS = 14
SIZE = 1000
OVER_MQTT = ("d2", "d3", "d4")
"""Their keys, shares and masked updates go through the edge's broker."""
TASK = f"""
import hashlib, time
from pathlib import Path
import torch
from msrt.training.task import Task

def drawn(node):
    first, second = hashlib.sha256(node.encode()).digest()[:2]
    return (first % 31 - 15) / 16, 1 + second % 7

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Parameter(torch.zeros({SIZE}))

class Moves:
    def __init__(self, model, by):
        self.model, self.by = model, by

    def zero_grad(self):
        pass

    def step(self):
        with torch.no_grad():
            self.model.body += self.by

class Constant(Task):
    def model(self):
        return Model()

    def data(self, node):
        self.by, samples = drawn(node.id)
        return (torch.zeros(samples, 1), torch.zeros(samples)), (torch.zeros(0, 1), torch.zeros(0))

    def loss(self, model, batch):
        return model.body.sum() * 0

    def optimiser(self, model, settings):
        time.sleep(0.5)
        while Path(self.options["door"]).exists():
            time.sleep(0.02)
        return Moves(model, self.by)
"""
JOB = """
name = "hidden"
task = "task:Constant"
rounds = {rounds}
checkpoints = {rounds}
deadline_s = 60.0
quorum = 0.5
min_nodes = 8
max_samples = 10
compression = "fp32"
pace.deviations = 1e6
[secure]
clip = 50.0
dropouts = 0.3
[options]
door = {door}
"""


def drawn(node):
    """(constant, samples), as the task draws them."""
    first, second = hashlib.sha256(node.encode()).digest()[:2]
    return (first % 31 - 15) / 16, 1 + second % 7


def round_of(tree):
    return status(tree, "hidden").get("round", 0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_device_costs_its_own_part_and_a_killed_edge_nothing(tmp_path):
    """Every checkpoint moved by exactly the mean of the devices it names; who was killed is missed in a round, and in
    the last one everybody is there, over ZeroMQ and MQTT. However busy the machine, nobody is too slow (deviations).
    """
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(JOB.format(rounds=ROUNDS, door=json.dumps(str(tmp_path / "door"))))
    door, names = tmp_path / "door", [f"d{number}" for number in range(1, 9)]
    with Tree() as tree:
        tree.edge("edge", "north")
        for name in names:
            tree.device(name, "north", *(("--link", "mqtt") if name in OVER_MQTT else ()))
        until("the cloud sees all devices", lambda: living(tree) >= set(names), 60)
        nodes = {row["name"]: row["node"] for row in json.loads(tree.cli("node", "list", "--json"))}
        watching = train(tree, folder)
        try:
            until("two rounds", lambda: round_of(tree) >= 2, 60)
            door.touch()
            again(tree, "d1", "device", "join")
            until("it is back", lambda: living(tree) >= set(names), 30)
            now = round_of(tree)
            door.unlink()
            until("a round without it", lambda: round_of(tree) > now, 60)
            door.touch()
            again(tree, "edge", "edge", "join")
            door.unlink()
            out, err = watching.communicate(timeout=120)
        finally:
            watching.kill()
            watching.communicate()
        assert watching.returncode == 0, out + err
        tree.procs["cloud"].stop()
        facts, blobs = checkpoints(tree, "hidden")
        flats = [load(blobs.read(fact.weights))[1].copy() for fact in facts]
    everyone = {nodes[name] for name in names}
    assert [fact.round for fact in facts] == list(range(1, ROUNDS + 1))
    assert any(nodes["d1"] not in fact.included for fact in facts)
    assert set(facts[-1].included) == everyone
    before = np.zeros(SIZE, np.float32)
    for fact, now in zip(facts, flats, strict=True):
        parts = [drawn(node) for node in fact.included]
        mean = sum(by * samples for by, samples in parts) / sum(samples for _, samples in parts)
        assert np.allclose(now - before, mean, atol=1e-4), fact.round
        before = now
