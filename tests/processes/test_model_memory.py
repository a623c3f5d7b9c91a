"""More models than a device has memory for, as a user sets it: real processes."""

from __future__ import annotations

import json

import pytest

from tests.bench.tree import Tree, post, until
from tests.runtime.inference.models import mlp

NAMES = ("a", "b", "c", "d")
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house():
    """Four models of 1.5 MB; the one device has room for two."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.device("d1", "north", "--model-memory", "5500000")
        for number, name in enumerate(NAMES):
            file = tree.path / f"{name}.onnx"
            file.write_bytes(mlp(sizes=(4, 600, 600, 3), seed=number))
            tree.cli("model", "push", str(file), "--name", name)
            tree.cli("model", "rollout", name, "--window", "0.3")
        yield tree


def ask(house, name):
    status, body = post(f"{house.procs['e1'].field('http')}/v2/models/{name}/infer", BODY)
    assert status == 200, body
    return json.loads(body)["outputs"][0]["data"]


def states(house):
    [device] = [node for node in json.loads(house.cli("node", "list", "--json")) if node["role"] == "device"]
    return {each.partition("@")[0]: each.rpartition(" ")[2] for each in device["models"]}


def test_all_are_answered_and_the_least_recently_used_make_room(house):
    """Round after round no request fails; what the operator sees is two warm ones, the last that were asked."""
    for name in NAMES:
        until(f"{name} answers", lambda name=name: ask(house, name), 30)
    first = {name: ask(house, name) for name in NAMES}
    for _ in range(5):
        for name in NAMES:
            assert ask(house, name) == first[name]
    wanted = {"a": "cold", "b": "cold", "c": "ready", "d": "ready"}
    until("the last two are warm", lambda: states(house) == wanted, 15)
    ask(house, "a")
    until("a took the place of c", lambda: states(house) == wanted | {"a": "ready", "c": "cold"}, 15)
