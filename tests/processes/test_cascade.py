"""A cascade over three tiers of real processes: device, edge and cloud each run their own model."""

from __future__ import annotations

import json
import signal

import pytest

from tests.bench.tree import Tree, post, until
from tests.processes.test_failover import times

BODY = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1, 2, 3, 4, 0, 0, 0, 900]}]}
"""Scores of the first row are close together whatever the factor below; the second row is sure at every tier."""
SMALL, MIDDLE, LARGE = 0.01, 0.02, 3.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house():
    """The small one on the device, the middle one on the edge, the large one in the cloud."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.device("d1", "north")
        for name, factor, to in (("small", SMALL, ""), ("middle", MIDDLE, "tier=edge"), ("large", LARGE, "tier=cloud")):
            file = tree.path / f"{name}.onnx"
            file.write_bytes(times(factor))
            tree.cli("model", "push", str(file), "--name", name)
            tree.cli("model", "rollout", name, "--window", "0.3", "--to", to)
        for name, larger in (("small", "middle"), ("middle", "large")):
            argv = ("--escalate-to", larger, "--escalate-below", "80%", "--escalate-budget", "100%")
            tree.cli("model", "policy", name, *argv)
        yield tree


def ask(house, model="small", **headers):
    status, body = post(f"{house.procs['e1'].field('http')}/v2/models/{model}/infer", json.dumps(BODY))
    return (status, json.loads(body)) if status else (0, body)


def rows(answer):
    data = answer["outputs"][0]["data"]
    return [pytest.approx(data[:4], rel=1e-3), pytest.approx(data[4:], rel=1e-3)]


def by(house, who):
    """Wait until the unsure row is answered by that tier; the answer."""
    found = {}

    def answered():
        status, answer = ask(house)
        found.update(answer if status == 200 else {})
        return found.get("parameters", {}).get("answered_by") == who

    until(f"answered by {who}", answered, 30)
    return found


def first(factor):
    return [one * factor for one in (1, 2, 3, 4)]


def test_each_tier_runs_its_own_and_says_so(house):
    """The command line shows a policy as it was set; models of edge and cloud answer under their own names."""
    assert json.loads(house.cli("model", "policy", "small", "--json"))["escalate_to"] == "middle"
    by(house, "device+cloud")
    assert ask(house, "large")[1]["parameters"]["device"] == "cloud"
    status, answer = ask(house, "middle")
    assert (status, answer["parameters"]["device"]) == (200, "e1")


def test_the_unsure_row_goes_up_to_the_top_and_the_sure_one_stays(house):
    """One answer, put together of what the device and the cloud said."""
    answer = by(house, "device+cloud")
    unsure, sure = rows(answer)
    assert first(LARGE) == unsure
    assert sure == [0, 0, 0, 900 * SMALL]
    assert answer["parameters"]["escalated"] == 1


def test_with_the_cloud_stopped_the_edge_answers_in_time(house):
    """Marked, and from the cloud again when it goes on."""
    cloud = house.procs["cloud"]
    cloud.signal(signal.SIGSTOP)
    try:
        answer = by(house, "device+edge")
        assert first(MIDDLE) == rows(answer)[0]
    finally:
        cloud.signal(signal.SIGCONT)
    by(house, "device+cloud")


def test_with_the_cloud_killed_and_started_again(house):
    """What each tier should run is in the journal and on disk: nobody has to say it again."""
    cloud = house.procs["cloud"]
    cloud.signal(signal.SIGKILL)
    cloud.popen.wait(10)
    answer = by(house, "device+edge")
    assert first(MIDDLE) == rows(answer)[0]
    house.start("cloud", "cloud", "start")
    by(house, "device+cloud")
