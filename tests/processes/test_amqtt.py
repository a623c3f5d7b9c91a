"""A tree whose edge finds no mosquitto: it runs amqtt as its child, and its device comes over MQTT all the same."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import msrt
from msrt import errors
from msrt.operator.session import ask
from tests.bench.tree import Proc, Tree, until

X = np.array([[1, 2, 3, 4]], np.float32)
BARE = (
    "import sys; from msrt.links import broker_host; broker_host.SBIN = ''; from msrt.cli import main; "
    "sys.argv[0] = 'msrt'; sys.exit(main())"
)
"""`msrt`, but where packages put mosquitto is not looked at beside PATH."""


def double():
    """An ONNX that doubles."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "k"], ["y"])], "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array(2, np.float32), "k")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def edge(tree, *invite):
    """Start e1 with nothing on its PATH."""
    (tree.path / "empty").mkdir(exist_ok=True)
    argv = ["/usr/bin/env", f"PATH={tree.path / 'empty'}", sys.executable, "-c", BARE, "edge", "join", *invite]
    tree.procs["e1"] = Proc([*argv, "--state", str(tree.path / "e1")], tree.path / "e1.log")
    return tree.procs["e1"].ready()


@pytest.fixture(scope="module")
def house():
    """One edge on amqtt, one device over MQTT with a sensor that never ends, and a model that doubles."""
    with Tree() as tree:
        edge(tree, tree.invite("edge", "--region", "north"), "--name", "e1")
        np.save(tree.path / "sensor.npy", np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32))
        config = tree.path / "device.toml"
        config.write_text(
            f'[[source]]\nname = "sensor"\nmodel = "double"\nkind = "replay"\npath = "{tree.path / "sensor.npy"}"\n'
            "loop = true\ninterval_s = 0.05\n"
        )
        tree.device("d1", "north", "--link", "mqtt", "--config", str(config))
        (tree.path / "double.onnx").write_bytes(double())
        tree.cli("model", "push", str(tree.path / "double.onnx"), "--name", "double")
        tree.cli("model", "rollout", "double", "--window", "0.3")
        yield tree


def broker(tree):
    """The pid of the edge's broker, once it runs; it is amqtt."""
    pid = tree.procs["e1"].pid

    def child():
        for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"msrt.links.amqtt_broker" in Path(f"/proc/{number}/cmdline").read_bytes():
                return int(number)
        return None

    return until("the edge runs amqtt", child, 10)


def gone(pid):
    try:
        os.kill(pid, 0)
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def answers(tree):
    """Wait until the device answers, rightly."""

    def asked():
        try:
            with msrt.connect([tree.procs["e1"].field("http")]) as client:
                return client.infer("double", {"x": X}, deadline=2.0)
        except errors.MsrtError:
            return None

    answer = until("d1 answers", asked, 30)
    assert np.array_equal(answer["y"], X * 2)
    assert answer.device == "d1"


def numbers(tree):
    """Of all events of the device that the cloud has."""
    found = ask(tree.path / "cloud", lambda cloud: cloud("events.after", after=0, device="d1", limit=5000, wait_s=1.0))
    return [event["seq"] for event in found["events"]]


def whole(tree):
    """Wait until events of this very moment arrive: each is there once, none is left out."""
    before = len(numbers(tree))
    until("new events arrive", lambda: len(numbers(tree)) > before + 20, 30)
    kept = numbers(tree)
    assert sorted(kept) == list(range(1, len(kept) + 1))


def test_a_device_joins_answers_and_reports_over_amqtt(house):
    """Nothing is missing where mosquitto is."""
    broker(house)
    answers(house)
    whole(house)


def test_a_killed_broker_is_started_again(house):
    """By its edge; the device returns by itself, and no event was lost meanwhile."""
    first = broker(house)
    os.kill(first, signal.SIGKILL)
    until("the broker is gone", lambda: gone(first), 5)
    assert broker(house) != first
    answers(house)
    whole(house)


def test_the_broker_dies_and_returns_with_its_edge(house):
    """SIGKILL of the edge leaves no broker behind; started again, both serve the same device."""
    first, killed = broker(house), house.procs["e1"]
    killed.signal(signal.SIGKILL)
    killed.popen.wait()
    until("the broker is gone", lambda: gone(first), 5)
    edge(house)
    assert broker(house) != first
    answers(house)
    whole(house)
