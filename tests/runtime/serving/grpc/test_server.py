"""The front on a real socket: every method, errors as status codes, deadlines, abandoned calls, bounds."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from msrt import errors
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.server import SERVICE
from tests.runtime.serving.grpc.rig import RAW, Caller, Keeper, question, serve


def test_health_and_metadata():
    """Versions as strings, free dimensions as -1."""

    async def scenario(caller, _master, _server):
        assert (await caller.ask("ServerLive", b"", m.ServerLiveResponse)).live
        assert (await caller.ask("ServerReady", b"", m.ServerReadyResponse)).ready
        server = await caller.ask("ServerMetadata", b"", m.ServerMetadataResponse)
        assert (server.name, server.version) == ("msrt", "1.2")
        asked = m.ModelRequest(name="default/digits", version="3")
        assert (await caller.ask("ModelReady", asked, m.ModelReadyResponse)).ready
        info = await caller.ask("ModelMetadata", asked, m.ModelMetadataResponse)
        assert (info.name, list(info.versions), info.platform) == ("digits", ["1", "3"], "onnxruntime_onnx")
        assert [(t.name, t.datatype, list(t.shape)) for t in info.inputs] == [("x", "FP32", [-1, 64])]

    serve(scenario)


def test_not_ready_is_an_answer():
    """A load balancer passes by; liveness stays."""

    async def scenario(caller, master, _server):
        master.up = False
        assert not (await caller.ask("ServerReady", b"", m.ServerReadyResponse)).ready
        assert not (await caller.ask("ModelReady", m.ModelRequest(name="digits"), m.ModelReadyResponse)).ready
        assert (await caller.ask("ServerLive", b"", m.ServerLiveResponse)).live

    serve(scenario)


def test_the_repository():
    """Index, config and statistics in Triton's terms; load and unload reach the master."""

    async def scenario(caller, master, _server):
        index = await caller.ask("RepositoryIndex", b"", m.RepositoryIndexResponse)
        assert [(row.version, row.state, row.reason) for row in index.models] == [
            ("1", "UNAVAILABLE", "not rolled out"), ("3", "READY", ""),
        ]  # fmt: skip
        ready = m.RepositoryIndexRequest(ready=True)
        index = await caller.ask("RepositoryIndex", ready, m.RepositoryIndexResponse)
        assert [row.version for row in index.models] == ["3"]
        config = (await caller.ask("ModelConfig", m.ModelRequest(name="digits"), m.ModelConfigResponse)).config
        assert (config.name, config.max_batch_size, config.backend) == ("digits", 32, "onnxruntime")
        assert (list(config.input[0].dims), config.input[0].data_type) == ([64], 11)
        assert (list(config.output[0].dims), config.output[0].data_type) == ([10], 13)
        said = await caller.ask("ModelStatistics", b"", m.ModelStatisticsResponse)
        (row,) = said.model_stats
        assert (row.inference_count, row.execution_count, row.inference_stats.success.ns) == (8, 2, 900)
        assert (row.batch_stats[0].batch_size, row.batch_stats[0].compute_infer.ns) == (4, 20)
        await caller.ask("RepositoryModelLoad", m.RepositoryModelRequest(model_name="digits@3"), m.Empty)
        await caller.ask("RepositoryModelUnload", m.RepositoryModelRequest(model_name="digits"), m.Empty)
        assert master.managed == [("load", "digits", 3), ("unload", "digits")]
        asked = m.RepositoryModelRequest(model_name="digits", parameters={"config": {"string_param": "{}"}})
        assert (await caller.refused("RepositoryModelLoad", asked))[0] == "INVALID_ARGUMENT"
        other = m.RepositoryIndexRequest(repository_name="other")
        assert (await caller.refused("RepositoryIndex", other))[0] == "INVALID_ARGUMENT"

    serve(scenario)


def test_inference():
    """The id comes back, every output is raw, the parameters say who answered."""

    async def scenario(caller, master, server):
        said = await caller.infer(question("7"), metadata=(("traceparent", "00-ab-cd-01"),))
        assert (said.id, said.model_name, said.model_version) == ("7", "digits", "3")
        assert list(said.raw_output_contents) == [RAW]
        assert said.parameters["device"].string_param == "cam-1"
        assert master.asked[0].trace == "00-ab-cd-01"
        assert server.responses == {"OK": 1}

    serve(scenario)


def test_an_output_as_its_best_classes():
    """The classification extension."""

    async def scenario(caller, _master, _server):
        output = {"name": "y", "parameters": {"classification": {"int64_param": 1}}}
        said = await caller.infer(question(outputs=[output]))
        assert (said.outputs[0].datatype, list(said.outputs[0].shape)) == ("BYTES", [1, 1])
        assert said.raw_output_contents[0] == b"\x0a\0\0\x002.000000:1"

    serve(scenario)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidTensor("x"), "INVALID_ARGUMENT"),
        (errors.NotFound("x"), "NOT_FOUND"),
        (errors.Forbidden("x"), "PERMISSION_DENIED"),
        (errors.Conflict("x"), "FAILED_PRECONDITION"),
        (errors.FrameTooLarge(2, 1), "RESOURCE_EXHAUSTED"),
        (errors.RateLimited("x"), "RESOURCE_EXHAUSTED"),
        (errors.Overloaded("x"), "UNAVAILABLE"),
        (errors.Unavailable("x", hint="\xfcber \u20ac"), "UNAVAILABLE"),
        (errors.DeadlineExceeded("x"), "DEADLINE_EXCEEDED"),
        (errors.DiskFull("x"), "RESOURCE_EXHAUSTED"),
        (errors.Corrupt("x" * 9000), "INTERNAL"),
    ],
)
def test_each_error_has_its_code(error, code):
    """With its sentence and our own code for it; who may come again is told when."""

    async def scenario(caller, _master, _server):
        said, details, trailing = await caller.refused("ModelInfer", question())
        assert (said, details, trailing["msrt-code"]) == (code, str(error)[:2000], error.code)
        again = isinstance(error, errors.Overloaded | errors.Unavailable)
        assert ("grpc-retry-pushback-ms" in trailing) == again

    serve(scenario, master=Keeper(error))


def test_a_full_queue_says_when_to_come_back():
    """In the words that gRPC's own retries understand."""
    error = errors.Overloaded("full")
    error.retry_after = 0.25

    async def scenario(caller, _master, _server):
        assert (await caller.refused("ModelInfer", question()))[2]["grpc-retry-pushback-ms"] == "250"

    serve(scenario, master=Keeper(error))


def test_a_call_fails_alone():
    """Garbage, a bug and an unknown model leave the connection as it was."""

    async def scenario(caller, master, _server):
        assert (await caller.refused("ModelInfer", b"\xff\xff"))[0] == "INVALID_ARGUMENT"
        assert (await caller.refused("ModelMetadata", m.ModelRequest(name="nobody")))[0] == "NOT_FOUND"
        assert (await caller.refused("NoSuchMethod", b""))[0] == "UNIMPLEMENTED"
        master.error = ZeroDivisionError()
        assert (await caller.refused("ModelInfer", question()))[0] == "UNKNOWN"
        master.error = None
        assert (await caller.infer()).id == ""

    serve(scenario)


@pytest.mark.parametrize(
    "method",
    [
        "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
        "TraceSetting", "LogSettings",
    ],
)  # fmt: skip
def test_what_we_do_not_have_is_unsupported(method):
    """Shared memory, trace and log settings, whatever is asked of them."""

    async def scenario(caller, _master, _server):
        code, details, _ = await caller.refused(method, b"")
        assert code == "UNIMPLEMENTED"
        assert "unsupported" in details

    serve(scenario)


def test_the_shortest_deadline_counts():
    """Of the call, the parameter, and the front's default."""

    async def scenario(caller, master, _server):
        await caller.infer(timeout=2)
        await caller.infer(question(parameters={"timeout": {"int64_param": 100_000}}), timeout=2)
        await caller.infer(timeout=60)
        left = [request.timeout_s for request in master.asked]
        assert 0 < left[0] < 2.1
        assert left[1:] == [0.1, 10.0]

    serve(scenario)


@pytest.mark.parametrize("how", ["deadline", "cancelled", "left"])
def test_an_abandoned_call_is_cancelled(how):
    """By its deadline, by word, or by the end of the connection: nobody computes for it any more."""

    async def scenario(caller, master, _server):
        asked = asyncio.ensure_future(caller.infer(timeout=0.2 if how == "deadline" else 10))
        await master.until(lambda: master.held)
        if how == "cancelled":
            asked.cancel()
        elif how == "left":
            await caller.channel.close()
        _, future, _ = master.held[0]
        await master.until(future.cancelled)
        await asyncio.wait([asked])
        assert asked.cancelled() or asked.exception() is not None

    serve(scenario, master=Keeper(holds=True))


def test_a_message_over_the_bound_is_refused():
    """Before it is read; the next one is served."""

    async def scenario(caller, master, _server):
        big = question(inputs=[{"name": "x", "datatype": "UINT8", "shape": [3000]}], raw_input_contents=[bytes(3000)])
        assert (await caller.refused("ModelInfer", big))[0] == "RESOURCE_EXHAUSTED"
        assert not master.asked
        await caller.infer()
        zipped = caller.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await zipped(big.SerializeToString(), compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    serve(scenario, max_message=2000)


def test_a_large_answer_is_sent():
    """The bound is for what comes in."""

    async def scenario(caller, master, _server):
        raw = bytes(6 << 20)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{caller.port}", options) as channel:
            asked = question(inputs=[{"name": "x", "datatype": "UINT8", "shape": [len(raw)]}], raw_input_contents=[raw])
            said = await Caller(caller.port, channel).infer(asked)
        assert said.raw_output_contents[0] == raw
        assert master.asked[0].frames[0] == raw

    serve(scenario)


def test_calls_in_flight_are_bounded():
    """One more is refused at once; when one is answered there is room again."""

    async def scenario(caller, master, _server):
        held = [asyncio.ensure_future(caller.infer()) for _ in range(2)]
        await master.until(lambda: len(master.held) == 2)
        assert (await caller.refused("ModelInfer", question()))[0] == "RESOURCE_EXHAUSTED"
        await master.answer(0)
        await master.answer(1)
        await asyncio.gather(*held)
        master.holds = False
        await caller.infer()

    serve(scenario, master=Keeper(holds=True), max_calls=2)


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_closing_finishes_what_is_in_flight():
    """Who asked before gets an answer; who comes after is turned away."""

    async def scenario(caller, master, server):
        asked = asyncio.ensure_future(caller.infer())
        await master.until(lambda: master.held)
        closing = asyncio.ensure_future(server.close())
        await asyncio.sleep(0)
        await master.answer(0)
        assert (await asked).model_name == "digits"
        await closing
        assert (await caller.refused("ModelInfer", question()))[0] == "UNAVAILABLE"

    serve(scenario, master=Keeper(holds=True))


def test_a_trace_goes_along_and_comes_back():
    """As metadata there, as trailing metadata here, as a parameter of the answer in any case."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    master = Keeper()
    master.marks = {"traceparent": parent}

    async def scenario(caller, _master, _server):
        call = caller.channel.unary_unary(f"/{SERVICE}/ModelInfer")(
            question().SerializeToString(), metadata=(("traceparent", parent), ("tracestate", "vendor=x"))
        )
        answer = m.ModelInferResponse.FromString(await call)
        assert dict(await call.trailing_metadata())["traceparent"] == parent
        assert answer.parameters["traceparent"].string_param == parent
        assert master.asked[0].trace == f"{parent} vendor=x"

    serve(scenario, master=master)
