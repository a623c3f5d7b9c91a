"""The example of servers on real processes: a cloud, an edge, and one server that trains with two ranks; two that
are one group.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.bench.tree import until
from tests.processes.test_training import again, status, train

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_devices_are_one_group(tree, tmp_path):
    """They meet at their edge; one is SIGKILLed in the middle of the job, and the group goes on when it is back."""
    tree.edge("e1", "north")
    tree.device("d1", "north")
    tree.device("d2", "north")
    folder, report = tmp_path / "job", tmp_path / "report.json"
    folder.mkdir()
    (tmp_path / "all").mkdir()
    (folder / "task.py").write_bytes((CLUSTER / "task.py").read_bytes())
    settings = (CLUSTER / "job.toml").read_text()
    settings = settings.replace("rounds = 8", "rounds = 4\nmin_nodes = 2").replace("processes = 2", "processes = 1")
    (folder / "job.toml").write_text(settings.replace("[cluster]", f'[cluster]\nnodes = 2\nshared = "{tmp_path}/all"'))
    watching = train(tree, folder, "--report", str(report))
    until("a round is done", lambda: status(tree, "cluster").get("round"), 240)
    again(tree, "d2", "device", "join")
    _, said = watching.communicate(timeout=400)
    assert watching.returncode == 0, said
    told = json.loads(report.read_text())
    assert [(row["round"], row["nodes"]) for row in told["rounds"]] == [(number, 2) for number in range(1, 5)]
    assert told["accuracy"] > 0.85
    log = (tree.path / "d1.log").read_text()
    assert len(re.findall(r"round_done.*processes\W+2\.0", log)) == 4, log[-3000:]
