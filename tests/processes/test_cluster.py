"""The example of servers on real processes: a cloud, an edge, and one server that trains with two ranks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[2] / "deploy" / "examples" / "cluster"


@pytest.mark.slow
def test_a_server_trains_with_two_ranks(tree, tmp_path):
    """`msrt train run` ends with a model that reads digits, and the server's log says who trained it."""
    tree.edge("e1", "north")
    tree.device("d1", "north")
    folder, report = tmp_path / "job", tmp_path / "report.json"
    folder.mkdir()
    (folder / "task.py").write_bytes((CLUSTER / "task.py").read_bytes())
    settings = (CLUSTER / "job.toml").read_text()
    (folder / "job.toml").write_text(settings.replace("rounds = 8", "rounds = 4"))
    tree.cli("train", "run", str(folder), "--watch", "--report", str(report))
    told = json.loads(report.read_text())
    assert [row["round"] for row in told["rounds"]] == [1, 2, 3, 4]
    assert told["accuracy"] > 0.9
    log = (tree.path / "d1.log").read_text()
    assert len(re.findall(r"round_done.*processes\W+2\.0.*restarts\W+0\.0", log)) == 4, log[-3000:]
