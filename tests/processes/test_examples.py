"""Each example on a tree of real processes: its rounds are those that `msrt train simulate` shows."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest
import torch

from msrt.training.bundle import pack
from msrt.training.local import Local
from msrt.training.simulation import Shape, Simulation
from tests.bench.tree import Tree, until
from tests.examples.simulated import DATA, EXAMPLES, task_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEVICES = ("d1", "d2", "d3")
ROUNDS = 2
SMALL = {
    "digits": "", "mnist": "images = 1500", "wisdm": "", "hospitals": "", "synthetic": "seed = 4",
    "transformer": "texts = 3",
}  # fmt: skip
"""Options instead of the example's, so that a round takes seconds."""


@pytest.fixture(scope="module")
def house():
    with Tree() as tree:
        tree.edge("e1", "north")
        for name in DEVICES:
            tree.device(name, "north", "--set", f"data={DATA}")
        rows = lambda: json.loads(tree.cli("node", "list", "--json"))  # noqa: E731
        until("all are here", lambda: {row["name"] for row in rows() if row["alive"]} >= set(DEVICES))
        yield tree


def small(example, folder):
    """The example with few rounds of everybody, float32 both ways, nothing published and no baseline."""
    shutil.copytree(EXAMPLES / example, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "job.toml").read_text()
    for name, value in (("rounds", ROUNDS), ("quorum", 1.0), ("compression", '"fp32"'), ("min_nodes", 3),
                        ("deadline_s", 100.0)):  # fmt: skip
        text = re.sub(rf"(?m)^{name} = .*\n", "", text)
        text = re.sub(r"(?m)^(task = .*\n)", rf"\1{name} = {value}\n", text)
    text = re.sub(r"(?m)^\[(publish|baseline)\]\n(\w.*\n)*", "", text)
    text = re.sub(r"(?m)^epochs = .*", "epochs = 1", text)
    option = SMALL[example]
    if option:
        text = re.sub(rf"(?m)^{option.partition(' =')[0]} = .*", option, text)
    if example == "synthetic":
        text = text.replace("seed = 4\n\n[train]", "seed = 0\n\n[train]")
    (folder / "job.toml").write_text(text)
    return folder


@pytest.mark.parametrize("example", SMALL)
def test_a_tree_does_what_the_simulation_shows(house, tmp_path, example):
    """Loss and accuracy of every round, and of the model in the end, but for the order of sums."""
    if example in ("mnist", "wisdm") and not (DATA / example).is_dir():
        pytest.skip(f"MSRT_DATA has no {example}")
    folder, report = small(example, tmp_path / example), tmp_path / "report.json"
    house.cli("train", "run", str(folder), "--report", str(report), timeout_s=110)
    told = json.loads(report.read_text())
    config = pack(folder).config
    torch.set_num_threads(1)  # as in a node's process
    task, _ = task_of(example, **config.options)
    job = Simulation(Local(task, config), Shape((1,), 3), time.monotonic, time.time, str(DATA))
    shown = list(job.run())
    assert [line["round"] for line in told["rounds"]] == [1, 2]
    for real, simulated in zip(told["rounds"], shown, strict=True):
        assert real["nodes"] == simulated["nodes"] == 3
        assert real["loss"] == pytest.approx(simulated["loss"], rel=0.01)
        assert real["accuracy"] == pytest.approx(simulated["accuracy"], abs=0.02)
