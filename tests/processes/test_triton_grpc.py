"""The public Triton clients over gRPC, as they are, against a real edge with a real device. One tree for all."""

from __future__ import annotations

import asyncio
import queue
import signal

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.bench.tree import Tree, X, until

ROW = np.array([X], np.float32)
TEXTS = np.array([["a", "\xfcber", ""]], dtype=object)


def echo(dtype, op="Identity", width=3):
    """A model of one operator."""
    x, y = (helper.make_tensor_value_info(name, dtype, ["n", width]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "echo", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def house():
    """An edge that listens for gRPC, one device, and models of numbers, halves and strings."""
    with Tree() as tree:
        edge = tree.edge("e1", "north", "--grpc", "127.0.0.1:0", "--set", "http_body_bytes=2000000")
        tree.device("d1", "north")
        tree.push()
        for name, dtype, op in (("halves", TensorProto.FLOAT16, "Neg"), ("strings", TensorProto.STRING, "Identity")):
            path = tree.path / f"{name}.onnx"
            path.write_bytes(echo(dtype, op))
            tree.cli("model", "push", str(path), "--name", name)
            tree.cli("model", "rollout", name, "--window", "1")
        with triton.InferenceServerClient(edge.field("grpc")) as client:
            for name in ("mlp", "halves", "strings"):
                until(f"{name} is ready", lambda name=name: ready(client, name), 30)
        yield tree
        for name, process in tree.procs.items():
            assert process.popen.poll() is None, name
            assert "Traceback" not in process.log.read_text(), name


def ready(client, name):
    try:
        return client.is_model_ready(name)
    except InferenceServerException:
        return False


@pytest.fixture
def url(house):
    return house.procs["e1"].field("grpc")


@pytest.fixture
def client(url):
    with triton.InferenceServerClient(url) as made:
        yield made


def given(name, array, dtype, module=triton):
    tensor = module.InferInput(name, list(array.shape), dtype)
    tensor.set_data_from_numpy(array)
    return tensor


def mlp_input(module=triton):
    return [given("x", ROW, "FP32", module)]


def expected():
    """What the small MLP says to ROW."""
    generator = np.random.default_rng(0)
    w1, w2 = generator.normal(size=(64, 128)) * 0.1, generator.normal(size=(128, 10)) * 0.1
    return np.maximum(ROW @ w1, 0) @ w2


# --- health and metadata ---------------------------------------------------------------------------------------------


def test_health(client):
    """Server and model live and are ready; an unknown model is an error."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    with pytest.raises(InferenceServerException, match="nobody") as caught:
        client.is_model_ready("nobody")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_metadata(client):
    """As messages, and as the JSON that the client makes of them."""
    assert client.get_server_metadata().name == "msrt"
    info = client.get_model_metadata("mlp", as_json=True)
    assert info["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "64"]}]
    assert info["versions"] == ["1"]


# --- inference -------------------------------------------------------------------------------------------------------


def test_raw_numbers(client):
    """What the model says, with the id, who said it, and only the outputs asked for."""
    result = client.infer("mlp", mlp_input(), request_id="7", outputs=[triton.InferRequestedOutput("y")])
    np.testing.assert_allclose(result.as_numpy("y"), expected(), rtol=0.1, atol=0.1)
    said = result.get_response()
    assert (said.id, said.model_name, said.model_version) == ("7", "mlp", "1")
    assert said.parameters["device"].string_param == "d1"
    assert said.raw_output_contents


def test_halves(client):
    """FP16 in and out."""
    array = np.array([[1, -2, 0.5]], np.float16)
    result = client.infer("halves", [given("x", array, "FP16")]).as_numpy("y")
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, -array)


def test_strings(client):
    """BYTES in and out."""
    result = client.infer("strings", [given("x", TEXTS, "BYTES")]).as_numpy("y")
    assert [text.decode() for text in result.ravel()] == list(TEXTS.ravel())


def test_classes(client):
    """The best three of an output, by value and index."""
    wanted = triton.InferRequestedOutput("y", class_count=3)
    full = client.infer("mlp", mlp_input()).as_numpy("y")[0]
    result = client.infer("mlp", mlp_input(), outputs=[wanted]).as_numpy("y")
    assert result.shape == (1, 3)
    best = [int(text.decode().split(":")[1]) for text in result[0]]
    assert best == list(np.argsort(-full, kind="stable")[:3])


def test_compressed_calls(client):
    """By gzip and deflate, both ways."""
    for algorithm in ("gzip", "deflate"):
        result = client.infer("mlp", mlp_input(), compression_algorithm=algorithm)
        assert result.as_numpy("y").shape == (1, 10)


def test_answers_by_callback(client):
    """The client's own way of not waiting."""
    answers = queue.Queue()
    for ident in "abc":
        client.async_infer("mlp", mlp_input(), lambda result, error: answers.put((result, error)), request_id=ident)
    heard = [answers.get(timeout=10) for _ in range(3)]
    assert all(error is None for _, error in heard)
    assert sorted(result.get_response().id for result, _ in heard) == list("abc")


def test_a_stream(client):
    """Answers with their ids, a failure among them, and the word that each is the last of its request."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for ident in "abc":
        client.async_stream_infer("mlp", mlp_input(), request_id=ident, enable_empty_final_response=True)
    heard = [answers.get(timeout=10) for _ in range(3)]
    assert sorted(result.get_response().id for result, _ in heard) == list("abc")
    assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in heard)
    client.async_stream_infer("nobody", mlp_input())
    result, error = answers.get(timeout=10)
    assert (result, "nobody" in str(error)) == (None, True)
    client.async_stream_infer("mlp", mlp_input(), request_id="last")
    assert answers.get(timeout=10)[0].get_response().id == "last"
    client.stop_stream()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "array", "dtype", "status", "fault"),
    [
        ("nobody", ROW, "FP32", "NOT_FOUND", "nobody"),
        ("mlp", ROW[:, :-1], "FP32", "INVALID_ARGUMENT", "[1, 63]"),
        ("mlp", ROW.astype(np.float64), "FP64", "INVALID_ARGUMENT", "must be FP32"),
        ("mlp", np.zeros((8000, 64), np.float32), "FP32", "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors(client, model, array, dtype, status, fault):
    """A status, and a sentence that names the fault."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [given("x", array, dtype)])
    assert caught.value.status() == f"StatusCode.{status}"
    assert fault in caught.value.message()


def test_what_is_unsupported(client):
    """Shared memory and trace settings."""
    for ask in (client.get_system_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException, match="unsupported") as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_deadline(house, client):
    """A device that stands still: the caller's deadline passes, and the edge works on."""
    device = house.procs["d1"]
    device.signal(signal.SIGSTOP)
    try:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("mlp", mlp_input(), client_timeout=0.5)
        assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("mlp", mlp_input(), timeout=300_000)
        assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
    finally:
        device.signal(signal.SIGCONT)
    until("the device answers again", lambda: answers(client), 20)


def answers(client):
    try:
        return client.infer("mlp", mlp_input())
    except InferenceServerException:
        return None


# --- the asynchronous client -----------------------------------------------------------------------------------------


def test_the_asynchronous_client(url):
    """Health, metadata, inference, strings, halves, errors and a stream."""

    async def main():
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("mlp")
            assert (await client.get_model_metadata("mlp")).name == "mlp"
            asked = [client.infer("mlp", mlp_input(triton_aio), request_id=str(n)) for n in range(20)]
            heard = await asyncio.gather(*asked)
            assert [result.get_response().id for result in heard] == [str(n) for n in range(20)]
            result = await client.infer("strings", [given("x", TEXTS, "BYTES", triton_aio)])
            assert result.as_numpy("y").shape == (1, 3)
            half = np.ones((1, 3), np.float16)
            result = await client.infer("halves", [given("x", half, "FP16", triton_aio)])
            np.testing.assert_array_equal(result.as_numpy("y"), -half)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", mlp_input(triton_aio))

            async def questions():
                for ident in "abc":
                    yield {"model_name": "mlp", "inputs": mlp_input(triton_aio), "request_id": ident}

            said = [pair async for pair in client.stream_infer(questions())]
            assert sorted(result.get_response().id for result, _ in said) == list("abc")
            assert [error for _, error in said] == [None] * 3

    asyncio.run(main())


# --- the repository, and the next start ------------------------------------------------------------------------------


def test_the_port_is_kept(house):
    """An edge that starts again is where it was, and serves."""
    edge = house.procs["e1"]
    before = edge.field("grpc")
    edge.stop()
    again = house.start("e1", "edge", "join", "--grpc", "127.0.0.1:0")
    assert again.field("grpc") == before
    with triton.InferenceServerClient(before) as client:
        until("it answers again", lambda: answers(client), 30)


def test_the_cloud_speaks_it_too():
    """Health and metadata of its registry; off unless asked for."""
    with Tree() as tree:
        assert "grpc" not in tree.procs["cloud"].log.read_text()
        tree.procs["cloud"].stop()
        cloud = tree.start("cloud", "cloud", "start", "--grpc", "127.0.0.1:0")
        with triton.InferenceServerClient(cloud.field("grpc")) as client:
            assert client.is_server_ready()
            with pytest.raises(InferenceServerException, match="nobody"):
                client.get_model_metadata("nobody")
