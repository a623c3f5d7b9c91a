"""A microcontroller in a tree of real processes: the C firmware in QEMU, or the agent in a MicroPython in WebAssembly,
its gateway, an edge and a cloud."""

from __future__ import annotations

import json
import signal
import subprocess
from urllib.request import urlopen

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.bench.tree import MSRT, Proc, Tree, post, until
from tests.device.micropython.wasm import WasmBoard
from tests.processes.board import Board, Cable, firmware, free_port
from tests.runtime.inference.micro.graphs import quantised
from tests.runtime.inference.models import mlp, model_of

pytestmark = [pytest.mark.slow, pytest.mark.minutes]
ROWS = np.random.default_rng(7).normal(size=(1000, 64)).astype(np.float32)


class House:
    """One of each, and a cable between gateway and board."""

    def __init__(self, tree, board, cable, file):
        self.tree, self.board, self.cable = tree, board, cable
        self.metrics = free_port()
        self.edge()
        self.gateway = self.start("--invite", tree.cli("invite", "device", "--region", "north"), "--name", "board")
        session = ort.InferenceSession(file)
        self.wanted = session.run(None, {"x": ROWS})[0].argmax(1)
        (tree.path / "mlp.onnx").write_bytes(file)
        tree.cli("model", "push", str(tree.path / "mlp.onnx"), "--name", "mlp", "--for", "mcu")
        tree.cli("model", "rollout", "mlp", "--to", "class=mcu", "--window", "0.5")
        self.served()

    def edge(self):
        if "e1" in self.tree.procs:
            return self.tree.start("e1", "edge", "join")
        return self.tree.edge("e1", "north")

    def start(self, *more):
        argv = [
            MSRT, "device", "gateway", "--tcp", f"127.0.0.1:{self.cable.port}", "--sense-ms", "100", "--state",
            str(self.tree.path / "gateway"), "--set", "reconnect_max_s=1",
            "--metrics", f"127.0.0.1:{self.metrics}", *more,
        ]  # fmt: skip
        proc = self.tree.procs["gateway"] = Proc(argv, self.tree.path / "gateway.log")
        return proc.ready()

    def ask(self, first, count=1):
        """Labels of some rows, or None where nobody answers."""
        rows = ROWS[first : first + count]
        body = {"inputs": [{"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}]}
        status, said = post(f"{self.tree.procs['e1'].field('http')}/v2/models/mlp/infer", json.dumps(body), 30)
        if status != 200:
            return None
        answer = json.loads(said)
        assert (answer["parameters"]["device"], answer["parameters"]["variant"]) == ("board", "micro")
        [output] = answer["outputs"]
        return np.array(output["data"]).reshape(output["shape"]).argmax(1)

    def served(self, timeout_s=60):
        until("the board answers", lambda: self.ask(0) is not None, timeout_s)

    def models(self):
        """Names of those that the edge says the board has."""
        [node] = [node for node in json.loads(self.tree.cli("node", "list", "--json")) if node["name"] == "board"]
        return [model.partition("@")[0] for model in node["models"]]

    def alive(self):
        [node] = [node for node in json.loads(self.tree.cli("node", "list", "--json")) if node["name"] == "board"]
        return node["alive"]

    def told(self, what):
        return (self.tree.path / "gateway.log").read_text().count(what)


@pytest.fixture(scope="module", params=["cortex-m", "micropython"])
def house(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    if request.param == "cortex-m":
        board = Board(firmware(folder), folder)
    else:
        board = WasmBoard(free_port(), folder / "board.log")
    cable = Cable(board.port)
    try:
        with Tree() as tree:
            yield House(tree, board, cable, quantised(mlp((64, 32, 10)), ROWS[:200], folder))
    finally:
        cable.close()
        board.kill()


def test_a_thousand_inferences_are_answered_as_onnxruntime_does(house):
    """By the board, over HTTP, each with the label that onnxruntime gives the int8 file on 99.5 % of them at least."""
    found = np.concatenate([house.ask(at, 20) for at in range(0, 1000, 20)])
    assert (found == house.wanted).mean() >= 0.995


def test_its_own_sensor_posts_events(house):
    """The board reads it, runs the model, and what it finds is on the edge."""
    done = house.tree.cli("events", "follow", "--model", "mlp", "--since", "0", "--count", "2")
    events = [json.loads(line) for line in done.splitlines()]
    assert {(event["source"], event["name"]) for event in events} == {("ramp", "board")}
    assert all(len(event["data"]["values"]) == 10 for event in events)


def test_a_noisy_line_costs_time_and_nothing_else(house):
    """A byte in 700 is struck, in both directions."""
    house.cable.noise = 700
    try:
        found = np.concatenate([house.ask(at, 4) for at in range(0, 40, 4)])
    finally:
        house.cable.noise = 0
    assert (found == house.wanted[:40]).mean() >= 0.97


def test_a_cut_line_is_survived(house):
    """Five times: it is connected again, and the board still has its model."""
    loaded = house.told("board.model_loaded")
    for number in range(5):
        house.cable.cut()
        until("the line was lost", lambda number=number: house.told("gateway.board_lost") > number)
        house.served()
    assert house.told("board.model_loaded") == loaded


def test_its_gateway_tells_prometheus_of_it(house):
    """What the board did, what its line did, and what every device tells of itself."""
    with urlopen(f"http://127.0.0.1:{house.metrics}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"}
    assert told["msrt_board_here"] == 1
    assert told["msrt_board_cut_total"] >= 5
    assert told["msrt_board_joined_total"] > told["msrt_board_cut_total"]
    assert told['msrt_board_inferences_total{code="ok"}'] >= 1000
    assert told["msrt_board_repeated_frames_total"] > 0, "a byte in 700 was struck"
    assert told["msrt_board_chunk_bytes_total"] > 1000
    assert told['msrt_models{state="ready"}'] == 1
    assert told['msrt_model_version{model="mlp",variant="micro"}'] == 1


def test_a_board_that_starts_again_gets_its_model_again(house):
    """A reset forgets all that lay in its memory."""
    loaded = house.told("board.model_loaded")
    house.board.reset()
    until("it has the model again", lambda: house.told("board.model_loaded") > loaded, 30)
    house.served()


def test_a_dead_board_loses_its_work_and_comes_back(house):
    """The edge hears of it at once; another board in its place is the same worker."""
    house.board.kill()
    until("the edge has taken its work back", lambda: not house.alive(), 30)
    assert house.ask(0) is None
    house.board.start()
    house.served()
    assert house.alive()


def test_an_edge_that_starts_again_has_it_again(house):
    """Killed and started: the gateway joins again by itself, and nothing goes over the line for that."""
    loaded = house.told("board.model_loaded")
    house.tree.procs["e1"].signal(signal.SIGKILL)
    house.tree.procs["e1"].popen.wait()
    house.edge()
    house.served()
    assert house.told("board.model_loaded") == loaded


def test_a_gateway_that_starts_again_serves_again(house):
    """Killed and started: the board kept its model."""
    house.tree.procs["gateway"].signal(signal.SIGKILL)
    house.tree.procs["gateway"].popen.wait()
    house.start()
    house.served()
    assert not house.told("board.model_loaded")


def test_a_model_that_no_board_runs_is_refused_by_its_operator(house):
    """At push for boards, and at the rollout to boards alone; elsewhere it is a model like others."""
    spec = [TensorProto.FLOAT, ["n", 64]]
    nodes = [helper.make_node("Sigmoid", ["x"], ["y"], name="gate_7")]
    path = house.tree.path / "sigmoid.onnx"
    path.write_bytes(model_of(nodes, [("x", *spec)], [("y", *spec)]).SerializeToString())
    with pytest.raises(RuntimeError, match=r"Sigmoid \(node gate_7\)"):
        house.tree.cli("model", "push", str(path), "--name", "sigmoid", "--for", "mcu")
    house.tree.cli("model", "push", str(path), "--name", "sigmoid")
    with pytest.raises(RuntimeError, match=r"Sigmoid \(node gate_7\)"):
        house.tree.cli("model", "rollout", "sigmoid", "--to", "class=mcu")


def test_a_second_model_takes_the_first_ones_place(house):
    """A board holds one, so the newer rollout has it, and the operator is told; the older one comes back when it is
    rolled out again."""
    tree, state = house.tree, ["--state", str(house.tree.path / "cloud")]
    tree.cli("model", "push", str(tree.path / "mlp.onnx"), "--name", "second", "--for", "mcu")
    for newer, older in (("second", "mlp"), ("mlp", "second")):
        argv = [MSRT, "model", "rollout", newer, "--to", "class=mcu", "--window", "0.5", *state]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
        assert f"a microcontroller holds one model: those that match let go of {older}" in done.stderr
        until("the board has it alone", lambda newer=newer: house.models() == [newer], 30)
        assert (house.ask(0) is None) == (newer == "second")
    house.served()


def test_a_serial_port_is_a_line_as_well(house, tmp_path):
    """A second board on a terminal device beside the first one; each answers for itself."""
    board = Board(firmware(tmp_path), tmp_path, pty=True)
    try:
        argv = [MSRT, "device", "gateway", "--serial", f"{board.tty}@115200", "--name", "second", "--state"]
        argv += [str(tmp_path / "state"), "--invite", house.tree.cli("invite", "device", "--region", "north")]
        second = house.tree.procs["second"] = Proc(argv, tmp_path / "second.log").ready()
        until("it has the model", lambda: "model.ready" in second.log.read_text(), 60)
        second.stop()
    finally:
        board.kill()


def test_a_decommissioned_board_is_wiped_with_its_gateway(house):
    """The last one: the identity is gone, the board has forgotten its model, and the process ends by itself."""
    before = json.loads(house.tree.cli("node", "diagnose", "board", "--json"))
    assert before["board"]["serial"] in ("mps2-1", "wasm-1")
    assert before["board"]["model"]
    house.tree.cli("node", "decommission", "board", "--yes")
    house.tree.procs["gateway"].popen.wait(30)
    assert house.told("the board's model is gone")
    assert not (house.tree.path / "gateway" / "identity.json").exists()
