"""`msrt train` on real processes: pause over a death of the cloud, lines of the jobs' processes, lists, curves."""

from __future__ import annotations

import csv
import json

import pytest

from tests.bench.tree import Tree, until
from tests.processes.test_training import DIGITS, HELD, again, living, runners, status, train

TALKS = HELD.replace(
    "return super().data(node)", 'print("hello from", node.labels["name"])\n        return super().data(node)'
)


@pytest.fixture(scope="module")
def house():
    """e1 with d1 over ZeroMQ and d2 over MQTT."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.device("d1", "north")
        tree.device("d2", "north", "--link", "mqtt")
        until("the cloud sees all devices", lambda: living(tree) >= {"d1", "d2"})
        yield tree


def job(folder, name, doors, rounds):
    """The example, held at doors, that says hello."""
    folder.mkdir()
    for file in ("task.py", "digits.py"):
        (folder / file).write_bytes((DIGITS / file).read_bytes())
    (folder / "held.py").write_text(TALKS)
    (folder / "job.toml").write_text(
        f'name = "{name}"\ntask = "held:Held"\nrounds = {rounds}\ndeadline_s = 100.0\nquorum = 1.0\nmin_nodes = 2\n'
        f"[train]\nepochs = 1\n[options]\ndoors = {json.dumps(str(doors))}\n"
    )
    return folder


def test_a_pause_outlives_the_cloud_and_every_look_at_a_job_works(house, tmp_path):
    """The open round ends, processes are let go, nothing opens until it is resumed; then it ends with its curves."""
    door = tmp_path / "hold-2"
    door.touch()
    watching = train(house, job(tmp_path / "job", "talks", tmp_path, 4), "--report", str(tmp_path / "report.json"))

    def waits_for_one():
        row = status(house, "talks")
        return row.get("round") == 1 and row["reported"] == 1 and row

    row = until("round 2 waits for one device", waits_for_one, 60)
    assert len(row["stragglers"]) == 1
    assert row["stragglers"][0] in ("d1", "d2")
    house.cli("train", "pause", "talks")
    assert status(house, "talks")["state"] == "paused"
    door.unlink()
    until("round 2 is over", lambda: status(house, "talks").get("round") == 2, 30)
    until("all processes are let go", lambda: not runners(house), 20)
    again(house, "cloud", "cloud", "start")
    until(
        "devices are back",
        lambda: status(house, "talks").get("state") == "paused" and living(house) >= {"d1", "d2"},
        30,
    )
    assert (status(house, "talks")["round"], runners(house)) == (2, [])

    lines = house.cli("train", "logs", "talks", "--lines", "50").splitlines()
    assert {"d1  hello from d1", "d2  hello from d2"} <= set(lines)
    assert house.cli("train", "logs", "talks", "--node", "d2").splitlines()[-1] == "d2  hello from d2"

    house.cli("train", "resume", "talks")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    assert "waiting for d" in err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [line["round"] for line in report["rounds"]] == [1, 2, 3, 4]
    assert report["state"] == "finished"
    assert "talks" in out

    house.cli("train", "run", str(job(tmp_path / "more", "talks", tmp_path, 1)), "--from", "talks", "--watch")
    rows = json.loads(house.cli("train", "list", "--name", "talks", "--only", "finished", "--since", "1h", "--json"))
    assert [(one["job"], one["after"]) for one in rows] == [("talks", ""), ("talks-2", "talks")]
    found = json.loads(house.cli("train", "compare", "talks", "talks-2", "--json"))
    assert found["settings"] == {"rounds": {"talks": 4, "talks-2": 1}}
    assert [one["rounds"] for one in found["jobs"]] == [4, 1]
    assert found["jobs"][1]["accuracy"] > report["rounds"][0]["accuracy"]  # it began where the other ended
    assert "settings that differ" in house.cli("train", "compare", "talks", "talks-2")
    house.cli("train", "export", "talks", "--csv", str(tmp_path / "c.csv"), "--boards", str(tmp_path / "boards"))
    assert len(list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))) == 4
    assert list((tmp_path / "boards" / "talks").glob("events.out.tfevents.*"))
