"""A tree that public Triton clients ask: models of numbers, halves, strings and state, and who asks for them."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.bench.tree import Tree, until
from tests.processes.test_triton_grpc import ROW, echo, expected, given
from tests.runtime.inference.test_sequences import adder

LABELS = [f"digit {n}" for n in range(10)]
MODELS = ("mlp", "halves", "strings", "brain", "adder", "spare")


def address(process):
    return process.field("http").removeprefix("http://")


@contextlib.contextmanager
def triton_house():
    """Cloud and edge, both with gRPC, one device, and models of numbers (with labels), halves and strings."""
    with Tree() as tree:
        tree.procs["cloud"].stop()
        tree.start("cloud", "cloud", "start", "--grpc", "127.0.0.1:0")
        edge = tree.edge("e1", "north", "--grpc", "127.0.0.1:0", "--set", "http_body_bytes=2000000")
        tree.device("d1", "north")
        tree.push()
        labels = tree.path / "labels.txt"
        labels.write_text("\n".join(LABELS))
        tree.cli("model", "push", str(tree.path / "mlp.onnx"), "--name", "mlp", "--labels", str(labels))
        tree.cli("model", "rollout", "mlp", "--window", "1")
        for name, dtype, op in (
            ("halves", TensorProto.FLOAT16, "Neg"), ("strings", TensorProto.STRING, "Identity"),
            ("brain", TensorProto.BFLOAT16, "Neg"), ("spare", TensorProto.FLOAT, "Neg"),
        ):  # fmt: skip
            path = tree.path / f"{name}.onnx"
            path.write_bytes(brain_floats() if name == "brain" else echo(dtype, op))
            tree.cli("model", "push", str(path), "--name", name)
            if name != "spare":
                tree.cli("model", "rollout", name, "--window", "1")
        (tree.path / "adder.onnx").write_bytes(adder())
        tree.cli("model", "push", str(tree.path / "adder.onnx"), "--name", "adder", "--keeps", "sum=sum_next")
        tree.cli("model", "rollout", "adder", "--window", "1")
        with triton.InferenceServerClient(address(edge)) as client:
            for name in MODELS[:-1]:
                until(f"{name} is ready", lambda name=name: client.is_model_ready(name), 60)
            until("the second version serves", lambda: serves(client, "2"), 60)
        with triton.InferenceServerClient(address(tree.procs["cloud"])) as client:
            until("the cloud knows", lambda: all(client.is_model_ready(name) for name in MODELS[:-1]), 60)
        yield tree
        for name, process in tree.procs.items():
            assert process.popen.poll() is None, name
            assert "Traceback" not in process.log.read_text(), name


def brain_floats():
    """A model that takes and gives BF16."""
    bf16 = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT), helper.make_node("Neg", ["wide"], ["less"]),
        helper.make_node("Cast", ["less"], ["y"], to=bf16),
    ]  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, bf16, ["n", 3]) for name in "xy")
    graph = helper.make_graph(nodes, "brain", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def serves(client, version):
    try:
        return client.infer("mlp", mlp_input()).get_response()["model_version"] == version
    except InferenceServerException:
        return False


def mlp_input(module=triton, *, binary=True, row=ROW):
    tensor = module.InferInput("x", list(row.shape), "FP32")
    tensor.set_data_from_numpy(row, binary_data=binary)
    return [tensor]


def close_to_expected(result):
    np.testing.assert_allclose(result.as_numpy("y"), expected(), rtol=0.1, atol=0.1)


class Http:
    """The repository over HTTP."""

    def __init__(self, process):
        self.client = triton.InferenceServerClient(address(process), network_timeout=60)

    def index(self):
        return {(row["name"], row["version"]): row["state"] for row in self.client.get_model_repository_index()}

    def ask(self, model):
        array = np.ones((1, 3), np.float32)
        return self.client.infer(model, [given("x", array, "FP32", triton)]).as_numpy("y").tolist()


class Grpc:
    """The same over gRPC."""

    def __init__(self, process):
        self.client = triton_grpc.InferenceServerClient(process.field("grpc"))

    def index(self):
        models = self.client.get_model_repository_index().models
        return {(row.name, row.version): row.state for row in models}

    def ask(self, model):
        array = np.ones((1, 3), np.float32)
        return self.client.infer(model, [given("x", array, "FP32", triton_grpc)]).as_numpy("y").tolist()


class Others:
    """Somebody who asks another model all the time."""

    def __init__(self, url):
        self.faults, self.slowest = [], 0.0
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with triton.InferenceServerClient(self._url) as client:
            while not self._stop.wait(0.01):
                began = time.monotonic()
                try:
                    client.infer("mlp", mlp_input())
                except InferenceServerException as error:
                    self.faults.append(error)
                self.slowest = max(self.slowest, time.monotonic() - began)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
