"""The public Triton clients over HTTP, as they are, against a real edge with a real device, and a real cloud. One tree
for all. The repository is asked over gRPC as well."""

from __future__ import annotations

import asyncio
import signal
import time

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.bench.tree import Tree, until
from tests.processes.test_triton_grpc import ROW, TEXTS, given
from tests.processes.triton_house import (
    LABELS,
    MODELS,
    Grpc,
    Http,
    Others,
    address,
    close_to_expected,
    mlp_input,
    serves,
    triton_house,
)


@pytest.fixture(scope="module")
def house():
    """One tree for all."""
    with triton_house() as tree:
        yield tree


@pytest.fixture(params=["e1", "cloud"])
def url(house, request):
    """Everything is asked of the edge, and of the cloud, which passes inference on."""
    return address(house.procs[request.param])


@pytest.fixture
def client(url):
    with triton.InferenceServerClient(url, concurrency=8) as made:
        yield made


@pytest.fixture
def edge(house):
    with triton.InferenceServerClient(address(house.procs["e1"]), concurrency=8) as made:
        yield made


# --- health and metadata ---------------------------------------------------------------------------------------------


def test_health_and_metadata(client):
    """Server and model live and are ready; an unknown model is not."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "2")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    info = client.get_model_metadata("mlp")
    assert info["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert info["versions"] == ["1", "2"]


def test_the_configuration(client):
    """In Triton's terms: dims without the batch, as its tools read them."""
    config = client.get_model_config("mlp")
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]
    assert config["max_batch_size"] > 1
    assert config["parameters"]["labels"]["string_value"].splitlines() == LABELS
    assert client.get_model_config("strings", "1")["output"][0]["data_type"] == "TYPE_STRING"
    with pytest.raises(InferenceServerException, match="nobody"):
        client.get_model_config("nobody")


def test_the_configuration_over_grpc(house):
    """The same."""
    for process in (house.procs["e1"], house.procs["cloud"]):
        with triton_grpc.InferenceServerClient(process.field("grpc")) as client:
            config = client.get_model_config("mlp").config
            assert (config.name, list(config.input[0].dims), config.max_batch_size > 1) == ("mlp", [64], True)
            assert config.parameters["labels"].string_value.splitlines() == LABELS
            assert client.get_model_config("adder").config.parameters["sequences"].string_value == "true"


def test_statistics(edge):
    """What was answered is counted, by model and version; an unknown model is an error."""
    before = edge.get_inference_statistics("mlp", "2")["model_stats"][0]
    for _ in range(3):
        edge.infer("mlp", mlp_input())
    (row,) = edge.get_inference_statistics("mlp", "2")["model_stats"]
    assert row["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert row["inference_count"] - before["inference_count"] == 3
    assert row["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert {row["name"] for row in edge.get_inference_statistics()["model_stats"]} >= {"mlp", "halves", "strings"}
    with pytest.raises(InferenceServerException, match="nobody"):
        edge.get_inference_statistics("nobody")


# --- inference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_binary_and_json(client, binary_in, binary_out):
    """Every way in with every way out; the id comes back, and who answered."""
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("mlp", mlp_input(binary=binary_in), request_id="7", outputs=outputs)
    close_to_expected(result)
    said = result.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("7", "mlp", "2")
    assert said["parameters"]["device"] == "d1"
    assert ("data" in said["outputs"][0]) == (binary_out is False)


@pytest.mark.parametrize("binary", [True, False])
def test_halves(client, binary):
    """FP16, which this client sends in binary only, and takes in both."""
    array = np.array([[1, -2, 0.5]], np.float16)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("halves", [given("x", array, "FP16", triton)], outputs=outputs)
    np.testing.assert_array_equal(np.array(result.as_numpy("y"), np.float16), -array)


def test_bfloat16(house, client):
    """BF16 as this client sends and takes it; over gRPC as well, and as numbers in JSON."""
    array = np.array([[1, -2, 0.5]], np.float32)
    assert client.infer("brain", [given("x", array, "BF16", triton)]).as_numpy("y").tolist() == [[-1, 2, -0.5]]
    in_json = triton.InferRequestedOutput("y", binary_data=False)
    said = client.infer("brain", [given("x", array, "BF16", triton)], outputs=[in_json]).get_response()["outputs"]
    assert (said[0]["datatype"], said[0]["data"]) == ("BF16", [-1, 2, -0.5])
    with triton_grpc.InferenceServerClient(house.procs["e1"].field("grpc")) as other:
        result = other.infer("brain", [given("x", array, "BF16", triton_grpc)])
    assert result.as_numpy("y").tolist() == [[-1, 2, -0.5]]


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client, binary):
    """BYTES in and out, in binary and in JSON."""
    tensor = triton.InferInput("x", [1, 3], "BYTES")
    tensor.set_data_from_numpy(TEXTS, binary_data=binary)
    result = client.infer("strings", [tensor], outputs=[triton.InferRequestedOutput("y", binary_data=binary)])
    texts = [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("y").ravel()]
    assert texts == list(TEXTS.ravel())


@pytest.mark.parametrize("binary", [True, False])
def test_classes_with_labels(client, binary):
    """The best three of an output: value, index, label."""
    full = client.infer("mlp", mlp_input()).as_numpy("y")[0]
    wanted = triton.InferRequestedOutput("y", binary_data=binary, class_count=3)
    result = client.infer("mlp", mlp_input(), outputs=[wanted]).as_numpy("y")
    assert result.shape == (1, 3)
    said = [(text.decode() if isinstance(text, bytes) else text).split(":") for text in result[0]]
    best = [int(index) for _, index, _ in said]
    np.testing.assert_allclose([float(value) for value, _, _ in said], np.sort(full)[::-1][:3], atol=0.05)
    assert [label for *_, label in said] == [LABELS[index] for index in best]


def test_classes_over_grpc_have_labels_too(house):
    """The same function answers both."""
    with triton_grpc.InferenceServerClient(house.procs["e1"].field("grpc")) as client:
        wanted = triton_grpc.InferRequestedOutput("y", class_count=1)
        result = client.infer("mlp", [given("x", ROW, "FP32", triton_grpc)], outputs=[wanted]).as_numpy("y")
    _, index, label = result[0][0].decode().split(":")
    assert label == LABELS[int(index)]


def test_named_versions(edge):
    """An older version answers only while somebody has it; an unknown one is an error."""
    assert edge.infer("mlp", mlp_input(), model_version="2").get_response()["model_version"] == "2"
    with pytest.raises(InferenceServerException, match="no version 9") as caught:
        edge.infer("mlp", mlp_input(), model_version="9")
    assert caught.value.status() == "404"


def test_sequence_priority_and_timeout_are_taken(client):
    """As the client sends them: a number or a text names the sequence."""
    for ident in (5, "a-text"):
        result = client.infer(
            "mlp", mlp_input(), sequence_id=ident, sequence_start=True, sequence_end=True, priority=1,
            timeout=5_000_000, parameters={"my-own": "note"},
        )  # fmt: skip
        close_to_expected(result)


def test_sequences_keep_their_state(client):
    """Two that take turns, each from its start to its end, on the edge or passed on by the cloud; a step of one that
    nobody knows is an error, not a fresh beginning."""
    for number in range(1, 5):
        step = given("x", np.array([[number, -number]], np.float32), "FP32", triton)
        for ident in (7, "seven"):
            result = client.infer(
                "adder", [step], sequence_id=ident, sequence_start=number == 1, sequence_end=number == 4
            )
            total = number * (number + 1) / 2
            assert result.as_numpy("y").tolist() == [[total, -total]]
    with pytest.raises(InferenceServerException, match="unknown-one"):
        client.infer("adder", [step], sequence_id="unknown-one")


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_compression(client, way):
    """Both ways, on small and large bodies."""
    rows = np.repeat(ROW, 3000, axis=0)
    for row in (ROW, rows):
        result = client.infer(
            "mlp", mlp_input(row=row), request_compression_algorithm=way, response_compression_algorithm=way
        )
        assert result.as_numpy("y").shape == (len(row), 10)


def test_many_at_once_get_each_their_own_rows(client):
    """Answers of one batch are never given to one caller (a known fault of another server)."""
    rows = [np.full((1 + n % 3, 3), n, np.float16) for n in range(60)]
    asked = [
        client.async_infer("halves", [given("x", row, "FP16", triton)], request_id=str(n)) for n, row in enumerate(rows)
    ]
    for number, (row, one) in enumerate(zip(rows, asked, strict=True)):
        result = one.get_result(timeout=20)
        np.testing.assert_array_equal(result.as_numpy("y"), -row)
        assert result.get_response()["id"] == str(number)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "array", "dtype", "status", "fault"),
    [
        ("nobody", ROW, "FP32", "404", "nobody"),
        ("mlp", ROW[:, :-1], "FP32", "400", "[1, 63]"),
        ("mlp", ROW.astype(np.float64), "FP64", "400", "must be FP32"),
        ("mlp", np.zeros((8000, 64), np.float32), "FP32", "413", "2000000"),
    ],
)
def test_errors(edge, model, array, dtype, status, fault):
    """A status, and a sentence that names the fault."""
    with pytest.raises(InferenceServerException) as caught:
        edge.infer(model, [given("x", array, dtype, triton)])
    assert caught.value.status() == status
    assert fault in caught.value.message()


def test_an_output_that_is_not_there_is_named(client):
    """A fault of the caller."""
    with pytest.raises(InferenceServerException, match="nothing-such") as caught:
        client.infer("mlp", mlp_input(), outputs=[triton.InferRequestedOutput("nothing-such")])
    assert caught.value.status() == "400"


def test_what_is_unsupported(client):
    """Shared memory, trace and log settings, each by name."""
    asked = [
        client.get_system_shared_memory_status, client.get_cuda_shared_memory_status, client.get_trace_settings,
        client.get_log_settings, client.unregister_system_shared_memory,
        lambda: client.register_system_shared_memory("a", "/a", 8), lambda: client.get_trace_settings("mlp"),
        lambda: client.update_log_settings({"log_info": True}),
        lambda: client.get_system_shared_memory_status("region"),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(InferenceServerException, match="unsupported"):
            ask()
    tensor = triton.InferInput("x", [1, 64], "FP32")
    tensor.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException, match="unsupported"):
        client.infer("mlp", [tensor])


def test_a_time_out_while_the_device_is_busy(house, edge):
    """It ends when the caller said, not when what runs before it ends (a known fault of another server)."""
    device = house.procs["d1"]
    device.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(InferenceServerException) as caught:
            edge.infer("mlp", mlp_input(), timeout=300_000)
        assert time.monotonic() - began < 3
        assert caught.value.status() in ("503", "504")
    finally:
        device.signal(signal.SIGCONT)
    with triton.InferenceServerClient(address(house.procs["cloud"])) as cloud:
        until("the device answers again", lambda: serves(edge, "2") and serves(cloud, "2"), 20)


# --- the asynchronous client -----------------------------------------------------------------------------------------


def test_the_asynchronous_client(url):
    """Health, metadata, inference in both forms, compression, statistics, the index and errors."""

    async def main():
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("mlp")
            assert (await client.get_model_metadata("mlp"))["name"] == "mlp"
            assert (await client.get_model_config("mlp"))["name"] == "mlp"
            asked = [
                client.infer("mlp", mlp_input(triton_aio, binary=n % 2 == 0), request_id=str(n)) for n in range(20)
            ]
            heard = await asyncio.gather(*asked)
            assert [result.get_response()["id"] for result in heard] == [str(n) for n in range(20)]
            for result in heard:
                close_to_expected(result)
            for way in ("gzip", "deflate"):
                close_to_expected(
                    await client.infer(
                        "mlp", mlp_input(triton_aio), request_compression_algorithm=way,
                        response_compression_algorithm=way,
                    )
                )  # fmt: skip
            result = await client.infer("strings", [given("x", TEXTS, "BYTES", triton_aio)])
            assert result.as_numpy("y").shape == (1, 3)
            assert isinstance((await client.get_inference_statistics())["model_stats"], list)
            assert {row["name"] for row in await client.get_model_repository_index()} == set(MODELS)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", mlp_input(triton_aio))

    asyncio.run(main())


# --- the repository --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Http, Grpc])
@pytest.mark.parametrize("where", ["e1", "cloud"])
def test_load_and_unload(house, kind, where):
    """A model gets traffic when it is ready and not before; unloaded it is known and gone; others go on meanwhile."""
    repository, others = kind(house.procs[where]), Others(address(house.procs["e1"]))
    client = repository.client
    until("it is known that nobody has it", lambda: repository.index()["spare", "1"] == "UNAVAILABLE")
    assert repository.index()["mlp", "2"] == "READY"
    with pytest.raises(InferenceServerException):
        repository.ask("spare")
    with others:
        client.load_model("spare")
        assert repository.ask("spare") == [[-1, -1, -1]]  # at once
        assert repository.index()["spare", "1"] == "READY"
        assert client.is_model_ready("spare")
        assert client.get_inference_statistics("spare")
        client.load_model("spare")  # twice is no fault
        client.unload_model("spare")
        assert repository.index()["spare", "1"] != "READY"
        with pytest.raises(InferenceServerException):
            repository.ask("spare")
        client.unload_model("spare")
    assert not others.faults
    assert others.slowest < 2, "a load stands in the way of others"
    with pytest.raises(InferenceServerException, match="nobody"):
        client.load_model("nobody")
    with pytest.raises(InferenceServerException, match="not supported"):
        client.load_model("spare", config="{}")


@pytest.mark.slow
def test_loading_needs_the_cloud():
    """With it away the error says so at once, and what is loaded goes on."""
    with Tree() as tree:
        edge = tree.edge("e1", "north")
        tree.device("d1", "north")
        tree.push()
        tree.serving(edge.field("http"))
        tree.procs["cloud"].stop()
        with triton.InferenceServerClient(address(edge)) as client:
            with pytest.raises(InferenceServerException, match="cloud is away") as caught:
                until("the edge notices", lambda: client.load_model("other"), 20)
            assert caught.value.status() == "503"
            close_to_expected(client.infer("mlp", mlp_input()))
