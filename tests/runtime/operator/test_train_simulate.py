"""`msrt train simulate`: what it prints and writes, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from msrt import cli

TASK = """
import torch
from msrt.training.task import Task

class Ramp(Task):
    def model(self):
        return torch.nn.Linear(1, 2)

    def data(self, node):
        values = torch.linspace(-1, 1, 20)[node.index % 2::2, None]
        labels = (values[:, 0] > 0).long()
        if self.options.get("broken"):
            raise ValueError("the camera is unplugged")
        return (values, labels), (values, labels)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job; its module is not the one of the test before."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "ramp", raising=False)
    made = tmp_path / "job"
    made.mkdir()
    (made / "ramp.py").write_text(TASK)
    (made / "job.toml").write_text('name = "ramp"\ntask = "ramp:Ramp"\nrounds = 3\n[train]\nlr = 0.5\nbatch = 4\n')
    return made


def test_a_job_is_tried_out_without_a_cloud(folder, tmp_path, capsys):
    """A line a round on standard error, a table on standard output; report and curves are those of a real job."""
    report, curves = tmp_path / "report.json", tmp_path / "curves.csv"
    argv = [
        "train",
        "simulate",
        folder,
        "--nodes",
        4,
        "--regions",
        2,
        "--report",
        report,
        "--csv",
        curves,
        "--judge",
        2,
    ]
    assert cli.main([str(part) for part in argv]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in err.splitlines()] == ["1/3", "2/3", "3/3"]
    assert "judged=" in err.splitlines()[1]
    assert "finished" in out
    told = json.loads(report.read_text())
    assert [line["round"] for line in told["rounds"]] == [1, 2, 3]
    assert told["accuracy"] > told["rounds"][0]["accuracy"] or told["accuracy"] == 1.0
    assert [row["round"] for row in csv.DictReader(curves.read_text().splitlines())] == ["1", "2", "3"]


def test_options_stand_in_for_what_the_file_says(folder, capsys):
    """--rounds and --seed; with --json the report alone is printed."""
    assert cli.main(["train", "simulate", str(folder), "--rounds", "1", "--seed", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (len(told["rounds"]), told["config"]["seed"], err) == (1, 5, "")


def test_a_job_that_ends_before_its_last_round_says_why(folder, capsys):
    """A spent budget stands in the table, beside the rounds that there were and the epsilon that they cost."""
    with (folder / "job.toml").open("a") as file:
        file.write(
            '[compression]\nregion = "fp32"\n[privacy]\nmode = "central"\nclip = 1.0\nnoise = 1.0\nbudget = 5.0\n'
        )
    assert cli.main(["train", "simulate", str(folder), "--nodes", "4"]) == 0
    names, row = capsys.readouterr().out.splitlines()
    assert names.split()[:4] == ["job", "state", "round", "rounds"]
    assert row.split()[:4] == ["ramp", "finished", "1", "3"]
    assert row.endswith("its privacy budget is spent after round 1")


def test_what_a_task_raises_is_shown_and_named(folder, capsys):
    """With the line where it was raised, and exit status 1."""
    with (folder / "job.toml").open("a") as file:
        file.write("[options]\nbroken = true\n")
    assert cli.main(["train", "simulate", str(folder)]) == 1
    _, err = capsys.readouterr()
    assert 'raise ValueError("the camera is unplugged")' in err
    assert err.splitlines()[-1].startswith("msrt: the task raised ValueError: the camera is unplugged")


def test_a_job_that_cannot_be_simulated_is_refused(folder, capsys):
    """In one line that says why."""
    with (folder / "job.toml").open("a") as file:
        file.write("[pace]\nbuffer = 2\n")
    assert cli.main(["train", "simulate", str(folder)]) == 1
    assert "[pace] buffer is not simulated" in capsys.readouterr().err


def test_a_tree_may_have_masters_between(folder, capsys):
    """--tree says who is below whom."""
    assert cli.main(["train", "simulate", str(folder), "--tree", "2x2x3", "--rounds", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["simulated"] == {"masters": [2, 2], "nodes": 12, "stragglers": 0.0}
    assert told["rounds"][0]["nodes"] == 12
