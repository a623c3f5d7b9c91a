"""The loop closes: a model is trained, judged, rolled out; a device's readings drift, and the next one follows."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.bench.tree import Tree, until
from tests.processes.test_training import DIGITS, living

JOB = """
name = "digits"
task = "task:Digits"
rounds = 8
min_nodes = 2
[train]
epochs = 2
batch = 16
lr = 0.08
[publish]
model = "digits"
rollout = true
[trigger]
drift = 1.0
cooldown_s = 3.0
"""
SOURCE = """
[[source]]
name = "eye"
model = "digits"
kind = "replay"
path = "{path}"
loop = true
interval_s = 0.005
on_change = true
drift = 0.5
drift_readings = 200
"""


@pytest.mark.slow
def test_drift_on_a_device_trains_and_ships_the_next_version(tree: Tree, tmp_path, monkeypatch):
    """Its camera is inverted: it says so, the job starts again from its weights with the cause in its row, and the new
    version goes out; pausing the job that is over ends it."""
    monkeypatch.syspath_prepend(str(DIGITS))
    from digits import digits  # noqa: PLC0415 - the example's module, found by the line above

    shuffled = np.random.default_rng(0).permutation(digits()[0])
    sys.modules.pop("digits")
    tree.edge("e1", "north")
    for name, readings in (("d1", shuffled), ("d2", 1 - shuffled)):
        np.save(tmp_path / f"{name}.npy", readings)
        (tmp_path / f"{name}.toml").write_text(SOURCE.format(path=tmp_path / f"{name}.npy"))
        tree.device(name, "north", "--config", str(tmp_path / f"{name}.toml"))
    until("the cloud sees all devices", lambda: living(tree) >= {"d1", "d2"})
    folder = tmp_path / "job"
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "job.toml").write_text(JOB)
    tree.cli("train", "run", str(folder), "--report", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["published"]["version"] == 1
    assert report["published"]["report"]["accuracy_fp32"] > 0.8

    def rows():
        return json.loads(tree.cli("train", "list", "--json"))

    until("drift started the next job", lambda: len(rows()) == 2 and rows()[1]["state"] == "finished", 60)
    tree.cli("train", "pause", rows()[-1]["job"])
    second = rows()[1]
    assert (second["by"], second["after"]) == ("trigger", "digits")
    assert second["cause"] == "drift of digits reported by d2"
    assert second["created"] >= rows()[0]["ended"] + 3.0

    def serving():
        return json.loads(tree.cli("model", "list", "--json"))[0]["serving"]

    until("the next version is out", lambda: serving() >= 2, 30)
