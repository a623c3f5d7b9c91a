"""A gRPC front with a made-up master behind it, and a caller who sends bytes."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from msrt.errors import NotFound
from msrt.protocol.messages import TensorSpec
from msrt.serving.backend import Batched, IndexRow, ModelConfig, ModelStatistics, Took
from msrt.serving.grpc import messages as m
from msrt.serving.grpc.server import SERVICE, GrpcConfig, GrpcServer
from tests.runtime.serving.caller import Master

RAW = b"\0\0\x80?\0\0\0@"
"""1 and 2 in FP32."""


class Keeper(Master):
    """Holds every question back until it is told to answer it; and has a repository of two versions."""

    def __init__(self, error=None, *, holds=False) -> None:
        super().__init__(error)
        self.holds = holds
        self.held = []
        self.managed = []
        self.changed = asyncio.Event()

    def infer(self, request):
        answer = super().infer(request)
        if not self.holds:
            return answer
        future = asyncio.get_running_loop().create_future()
        self.held.append((request, future, answer))
        self.changed.set()
        return future

    async def until(self, condition):
        """Wait until it is so."""
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                try:
                    async with asyncio.timeout(0.01):
                        await self.changed.wait()
                except TimeoutError:
                    pass

    async def answer(self, position):
        _, future, answer = self.held[position]
        future.set_result(await answer)

    def close(self):
        for *_, answer in self.held:
            answer.close()

    def index(self):
        return [IndexRow("digits", 1, "UNAVAILABLE", "not rolled out"), IndexRow("digits", 3, "READY")]

    def config(self, model, version=0):
        self.metadata(model, version)
        inputs, outputs = (TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "BYTES", (-1, 10)),)
        return ModelConfig(model, version or 3, inputs, outputs, max_batch_size=32)

    def statistics(self, model="", version=0):
        if model not in ("", "digits"):
            raise NotFound(f"no model {model} is served here")
        batch = Batched(4, Took(2, 10), Took(2, 20), Took(2, 30))
        row = ModelStatistics("digits", 3, 1_700_000_000_000, 8, 2, success=Took(8, 900), batch_stats=[batch])
        return [row]

    async def load(self, model, version=0):
        self.managed.append(("load", model, version))

    async def unload(self, model):
        self.managed.append(("unload", model))


class Caller:
    """A channel to it; messages are ours, bytes between."""

    def __init__(self, port, channel=None) -> None:
        self.port = port
        self.channel = channel or grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def ask(self, method, request, answer, **more):
        """One call; `request` may be bytes."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return answer.FromString(await self.channel.unary_unary(f"/{SERVICE}/{method}")(data, **more))

    async def infer(self, request=None, **more):
        return await self.ask("ModelInfer", request or question(), m.ModelInferResponse, **more)

    def stream(self, **more):
        return self.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(**more)

    async def refused(self, method, request, **more):
        """(code, details, trailing metadata) of a call that fails."""
        try:
            await self.ask(method, request, m.Empty, **more)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details(), dict(error.trailing_metadata())
        raise AssertionError(f"{method} was answered")


def question(ident="", **more):
    """Two numbers for a model."""
    asked = {"model_name": "digits", "id": ident, "raw_input_contents": [RAW]} | more
    asked.setdefault("inputs", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}])
    return m.ModelInferRequest(**asked)


def serve(scenario, *, master=None, access=None, **config):
    """Run scenario(caller, master, server) against a server, and close it."""

    async def main():
        behind = master or Keeper()
        server = GrpcServer(behind, behind, GrpcConfig(**config), access=access, version="1.2")
        caller = Caller(await server.start("127.0.0.1", 0))
        try:
            async with asyncio.timeout(20):
                return await scenario(caller, behind, server)
        finally:
            await caller.channel.close()
            await server.close()
            behind.close()
            assert (server.in_flight, server.streams) == (0, 0)

    return asyncio.run(main())
