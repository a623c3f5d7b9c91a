"""The client library as its guide shows it, and through the death of edges. One tree for all."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import msrt
from msrt import errors
from tests.bench.tree import Tree, until

GUIDE = Path(msrt.__file__).parent / "client" / "GUIDE.md"
X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
ONES = np.ones((1, 4), np.float32)


def sines():
    """Four numbers unchanged, after eight million sines; one row at a time, so that nobody rides with another."""
    nodes = [helper.make_node("MatMul", ["x", "widen"], ["h0"])]
    nodes += [helper.make_node("Sin", [f"h{n}"], [f"h{n + 1}"]) for n in range(20)]
    nodes += [
        helper.make_node("ReduceMax", ["h20"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Min", ["most", "nothing"], ["none"]),
        helper.make_node("Mul", ["none", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    shape = [1, 4]
    graph = helper.make_graph(
        nodes, "sines",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.ones((4, 400_000), np.float32), "widen"),
            numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        ],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def house():
    """Two edges, a device at each, and the model of the guide."""
    with Tree() as tree:
        for number, region in enumerate(("north", "south"), 1):
            tree.edge(f"e{number}", region)
            tree.device(f"d{number}", region)
        tree.push("digits")
        file = tree.path / "sines.onnx"
        file.write_bytes(sines())
        tree.cli("model", "push", str(file), "--name", "sines")
        tree.cli("model", "rollout", "sines", "--canary", "50%", "--window", "1")
        for number in (1, 2):
            tree.serving(tree.procs[f"e{number}"].field("http"), model="digits")
        yield tree


def test_the_guide_does_what_it_says(house, monkeypatch):
    """All blocks of the guide, one after the other, as one program; only the addresses are those of this tree."""
    monkeypatch.chdir(house.path)
    edges = [house.procs["e1"], house.procs["e2"]]
    text = GUIDE.read_text()
    for written, real in (
        ("http://127.0.0.1:8000", edges[0].field("http")), ("http://127.0.0.1:8001", edges[1].field("http")),
        ("tcp://127.0.0.1:5570", edges[0].field("zmq")), ("~/.local/state/msrt/client", str(house.path / "cloud")),
    ):  # fmt: skip
        assert written in text
        text = text.replace(written, real)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 8
    names = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), names)
    assert names["answer"].index == 300
    assert len(names["answers"]) == 500


def urls_of(house, link):
    return [house.procs[name].field(link) for name in ("e1", "e2")]


class Killer:
    """Kills an edge when it is told to, and brings it back at the end."""

    def __init__(self, house, name):
        self.house, self.name, self.now = house, name, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        self.now.wait(30)
        proc = self.house.procs[self.name]
        proc.signal(signal.SIGKILL)
        proc.popen.wait()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.now.set()
        self.thread.join()
        self.house.start(self.name, "edge", "join")


def connected(house, link, **options):
    """A client with both edges at hand, both of which answer."""
    for name in ("e1", "e2"):
        house.serving(house.procs[name].field("http"), model="digits")
    client = msrt.connect(urls_of(house, link), state=house.path / "cloud", **options)
    until("both edges are at hand", lambda: sum(front.live for front in client._client._core.fronts) == 2)
    return client


def asked(client):
    """The edge that is asked now."""
    return client._client._core.current.url


@pytest.mark.parametrize("link", ["http", "zmq"])
@pytest.mark.parametrize("how", ["infer_many", "stream"])
def test_an_edge_killed_in_the_middle(house, link, how):
    """SIGKILL to the edge that is asked: every answer is there, once, and right."""
    count = 6000
    with connected(house, link, deadline_s=30.0) as client:
        expected = client.infer("digits", {"x": X})["y"]
        name = "e1" if asked(client) == urls_of(house, link)[0] else "e2"
        with Killer(house, name) as killer:
            if how == "stream":
                answers = []
                for answer in client.stream("digits", ({"x": X} for _ in range(count))):
                    answers.append(answer)
                    if len(answers) == 500:
                        killer.now.set()
            else:
                killed = threading.Timer(0.05, killer.now.set)
                killed.start()
                answers = client.infer_many("digits", [{"x": X}] * count)
                killed.join()
                assert len(client.infer_many("digits", [{"x": X}] * 100)) == 100
        assert [answer.index for answer in answers] == list(range(count))
        for answer in answers:
            np.testing.assert_allclose(answer["y"], expected, atol=0.05)


@pytest.mark.parametrize("link", ["http", "zmq"])
def test_a_sequence_on_a_killed_edge_is_lost(house, link):
    """It says so; other requests go on at the other edge."""
    with connected(house, link) as client, client.sequence("digits") as sequence:
        sequence.infer({"x": X})
        name = "e1" if asked(client) == urls_of(house, link)[0] else "e2"
        with Killer(house, name):
            pass
        with pytest.raises(errors.SequenceLost):
            sequence.infer({"x": X})
        assert client.infer("digits", {"x": X}).version == 1


@pytest.mark.parametrize("link", ["http", "zmq"])
def test_abandoned_requests_are_not_computed(house, link):
    """A hundred are asked of a model that takes its time, nobody waits for them: the edge and the devices let go."""

    async def main():
        async with msrt.AsyncClient(urls_of(house, link)[:1], state=house.path / "cloud") as client:
            await client.infer("sines", {"x": ONES})
            before = computed(house)
            tasks = [asyncio.ensure_future(client.infer("sines", {"x": ONES}, deadline=60.0)) for _ in range(100)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.to_thread(until, "the edges let go", lambda: not waiting(house), 5.0)
            assert 1 <= computed(house) - before < 50

    house.serving(house.procs["e1"].field("http"), model="digits")
    until("both devices have an edge again", lambda: at_home(house))
    asyncio.run(main())


def at_home(house):
    """Whether both devices are at an edge: one whose edge was killed is on its way for a while."""
    nodes = {node["name"]: node["alive"] for node in json.loads(house.cli("node", "list", "--json"))}
    return nodes["d1"] and nodes["d2"]


def computed(house):
    """Requests that the devices answered so far, by their own word."""
    return sum(json.loads(house.cli("node", "diagnose", name, "--json"))["answered"] for name in ("d1", "d2"))


def waiting(house):
    """Whether requests are open at an edge, by its own word."""
    return any(json.loads(house.cli("node", "diagnose", edge, "--json"))["open"] > 0 for edge in ("e1", "e2"))


def test_the_command_line_asks_in_all_these_ways(house, tmp_path):
    """One question, a sequence of rows, classes; with a priority and a deadline; what is printed says who answered."""
    file = tmp_path / "rows.npy"
    np.save(file, np.repeat(X, 3, axis=0))

    def infer(*more):
        return house.cli("infer", "digits", str(file), *more)

    one = json.loads(infer("--json", "--priority", "urgent", "--deadline", "5", "--outputs", "y"))
    assert np.shape(one["outputs"]["y"]) == (3, 10)
    assert one["seconds"] > 0
    steps = json.loads(infer("--json", "--sequence"))
    assert [np.shape(step["outputs"]["y"]) for step in steps] == [(1, 10)] * 3
    assert " ms" in infer("--sequence")
    classes = json.loads(infer("--json", "--top", "2"))
    assert [len(row) for row in classes] == [2, 2, 2]
    assert classes[0][0]["number"] == int(np.argmax(one["outputs"]["y"][0]))
    with pytest.raises(RuntimeError, match="do not go together"):
        infer("--sequence", "--top", "1")
