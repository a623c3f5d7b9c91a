"""One of four devices on real processes has learned wrong labels, and claims eight times the data of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.tree import Tree, until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

DIGITS = Path(__file__).parents[2] / "deploy" / "examples" / "digits"
LIES = """
import torch
from task import Digits

class Lies(Digits):
    def data(self, node):
        (x, y), test = super().data(node)
        if node.index == 0:
            x, y = torch.as_tensor(x), torch.as_tensor(y)
            return (x.repeat(8, 1), ((y + 1) % 10).repeat(8)), test
        return (x, y), test
"""
JOB = """
name = "{name}"
task = "lies:Lies"
rounds = 12
deadline_s = 60.0
quorum = 1.0
min_nodes = 4
[train]
epochs = 4
batch = 16
lr = 0.08
[aggregate]
{aggregate}
"""


@pytest.fixture(scope="module")
def house():
    """One edge, four devices."""
    with Tree() as tree:
        tree.edge("e1", "north")
        for number in range(4):
            tree.device(f"d{number}", "north", *(("--link", "mqtt") if number == 3 else ()))
        until("the cloud sees all devices", lambda: len(living(tree)) == 4)
        yield tree


def living(tree):
    return {
        row["name"] for row in json.loads(tree.cli("node", "list", "--json")) if row["alive"] and row["name"][0] == "d"
    }


def accuracy(tree, folder, name, aggregate):
    """On the labels that are right, after the job; and who was in its rounds."""
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "lies.py").write_text(LIES)
    (folder / "job.toml").write_text(JOB.format(name=name, aggregate=aggregate))
    report = folder / "report.json"
    tree.cli("train", "run", str(folder), "--report", str(report))
    told = json.loads(report.read_text())
    assert [row["nodes"] for row in told["rounds"]] == [4] * 12
    assert not any(row["failed"] for row in told["rounds"])
    return told["rounds"][-1]["accuracy"]


def test_a_rule_keeps_what_the_honest_learned(house, tmp_path):
    """The mean believes the liar; the median on the cloud and a trimmed mean in the region do not."""
    believed = accuracy(house, tmp_path / "mean", "mean", 'rule = "mean"')
    for rule, tier in (("median", "cloud"), ("trimmed:0.34", "region")):
        name = f"{rule.partition(':')[0]}-{tier}"
        kept = accuracy(house, tmp_path / name, name, f'rule = "{rule}"\ntier = "{tier}"')
        assert kept > 0.75, (name, kept, believed)
        assert kept > believed + 0.4, (name, kept, believed)
