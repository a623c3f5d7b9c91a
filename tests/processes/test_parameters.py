"""A parameter server on real processes: a worker, its process, an edge and the cloud are killed while it trains."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from msrt.training.local import Local, load_task
from msrt.training.settings import parse_config
from msrt.training.steps import Steps
from msrt.training.task import Node
from tests.bench.tree import Tree, until
from tests.processes.test_training import DIGITS, again, living, runners, status, train

PARAMETERS = """
import time
from task import Digits

class Paced(Digits):
    def loss(self, model, batch):
        if model.training:
            time.sleep(self.options["pause"])
        return super().loss(model, batch)
"""


@pytest.fixture(scope="module")
def house():
    """e1 north with d1 over ZeroMQ and d2 over MQTT, e2 south with d3 and d4."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.edge("e2", "south")
        tree.device("d1", "north")
        tree.device("d2", "north", "--link", "mqtt")
        tree.device("d3", "south")
        tree.device("d4", "south")
        until("the cloud sees all devices", lambda: living(tree) >= {"d1", "d2", "d3", "d4"})
        yield tree


def bundle(folder, name, table, *, rounds, pause=0.0, head=""):
    """The example's task and data under a parameter server."""
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "paced.py").write_text(PARAMETERS)
    (folder / "job.toml").write_text(
        f'name = "{name}"\ntask = "paced:Paced"\nrounds = {rounds}\nmin_nodes = 4\ncompression = "fp32"\n{head}'
        f"[train]\nbatch = 16\nlr = 0.1\n[parameter_server]\n{table}\n[options]\npause = {pause}\n"
    )
    return folder


def ended(process, seconds=120):
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors


def advanced(tree, job, number):
    return lambda: status(tree, job).get("round", 0) >= number


def one_process(folder, clocks):
    """The same steps by large batches: the samples of all four workers in each, plain SGD."""
    config = parse_config((folder / "job.toml").read_text())
    local = Local(load_task(config.task, folder, config.options), config)
    steps, weights = Steps(local, config.parameter_server), local.initial()
    nodes = [Node(f"n{at}", index=at, count=4) for at in range(4)]
    for clock in range(clocks):
        found = [
            (push.copy(), samples) for push, samples, *_ in (steps.step(weights, n, clock, judge=False) for n in nodes)
        ]
        weights = weights - 0.1 * sum(push * samples for push, samples in found) / sum(samples for _, samples in found)
    return local, weights, nodes


@pytest.mark.slow
def test_synchronous_training_is_that_of_one_process(house, tmp_path):
    """Loss and accuracy of every round are those of large batches in one process, to the rounding of float32."""
    torch.set_num_threads(1)
    folder, report = bundle(tmp_path / "sync", "sync", "steps = 10", rounds=3), tmp_path / "report.json"
    ended(train(house, folder, "--report", str(report)))
    rounds = json.loads(report.read_text())["rounds"]
    assert [row["pushes"] for row in rounds] == [40, 40, 40]
    for row in rounds:
        local, weights, nodes = one_process(folder, 10 * (row["round"] - 1))
        _, metrics = local.evaluate(weights, nodes)
        assert row["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
        assert row["accuracy"] == pytest.approx(metrics["accuracy"], abs=0.01)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobodys_death_ends_it(house, tmp_path):
    """SIGKILL of a job's process, a device, an edge and the cloud: each comes back, and every round has its line."""
    folder, report = (
        bundle(
            tmp_path / "deaths",
            "deaths",
            'mode = "ssp"\nstaleness = 6\nsteps = 20\nsnapshot_s = 1.0',
            rounds=14,  # enough of them after the last death
            pause=0.05,
        ),
        tmp_path / "report.json",
    )
    watching = train(house, folder, "--report", str(report))
    until("it trains", advanced(house, "deaths", 1), 60)
    os.kill(runners(house)[-1], signal.SIGKILL)
    until("it goes on without a process", advanced(house, "deaths", 3), 60)
    again(house, "d3", "device", "join")
    until("it goes on without a device", advanced(house, "deaths", 5), 60)
    again(house, "e2", "edge", "join")
    until("it goes on without an edge", advanced(house, "deaths", 7), 60)
    again(house, "cloud", "cloud", "start")
    ended(watching)
    rounds = json.loads(report.read_text())["rounds"]
    assert [row["round"] for row in rounds] == list(range(1, 15))
    told = [row for row in rounds if row["accuracy"] is not None]  # what was judged while the cloud was away is lost
    assert told[-1]["accuracy"] > 0.7
    assert max(row["gap"] or 0 for row in rounds) <= 6
    assert "deaths" in house.cli("train", "compare", "deaths")


@pytest.mark.slow
def test_large_models_go_as_streams_over_both_links(house, tmp_path):
    """A push and a pull that fit no packet, from the MQTT device too; and with int8 and bfloat16."""
    folder, report = (
        bundle(
            tmp_path / "large", "large", "steps = 3", rounds=2, head='[compression]\ndevice = "int8"\ndown = "bf16"\n'
        ),
        tmp_path / "report.json",
    )
    text = (folder / "job.toml").read_text().replace('compression = "fp32"\n', "")
    (folder / "job.toml").write_text(text)
    (folder / "paced.py").write_text(PARAMETERS + WIDE)
    ended(train(house, folder, "--report", str(report)))
    rounds = json.loads(report.read_text())["rounds"]
    assert [row["pushes"] for row in rounds] == [12, 12]
    size = json.loads(report.read_text())["parameters"]
    assert size > 1_500_000
    for row in rounds:  # what was asked for again counts too
        assert 0.98 * 12 * size < row["bytes_up"] < 1.5 * 12 * size
        assert 0.98 * 11 * 2 * size < row["bytes_down"] < 1.5 * 14 * 2 * size


WIDE = """
    def model(self):
        import torch

        return torch.nn.Sequential(torch.nn.Linear(64, 24_000), torch.nn.ReLU(), torch.nn.Linear(24_000, 10))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pause", "stop"])
def test_an_operators_word_reaches_the_workers(house, tmp_path, command):
    """Paused or stopped: no process of the job is left on any device; a paused one goes on."""
    name = f"told-{command}"
    folder = bundle(tmp_path / name, name, 'mode = "async"\nsteps = 20', rounds=1000, pause=0.05)
    watching = train(house, folder)
    until("it trains", advanced(house, name, 1), 60)
    house.cli("train", command, name)
    until("its processes are gone", lambda: not runners(house), 20)
    if command == "pause":
        assert status(house, name)["state"] == "paused"
        held = status(house, name)["round"]
        house.cli("train", "resume", name)
        until("it goes on", advanced(house, name, held + 1), 60)
        house.cli("train", "stop", name)
    watching.communicate(timeout=60)
    assert status(house, name)["state"] == "stopped"
