"""Edges that only answer: a real downlink with a handler that doubles what it is given."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np

from msrt import errors
from msrt.client import AsyncClient
from msrt.joining import Membership
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, TensorSpec
from msrt.serving.backend import ModelInfo
from msrt.world.simulation import Simulation
from tests.runtime.hop.tree import CLOUD, TOLD, Handler, ParentNode, certificate, identity, parent_of, until

INFO = ModelInfo(
    "double", (1,), (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), labels=("cat", "dog")
)  # fmt: skip
INFO_WITHOUT_LABELS = msgspec.structs.replace(INFO, labels=())


class EdgeHandler(Handler):
    """Doubles. `trouble(message)` may return an error to answer with instead, `silent` answers nothing."""

    def __init__(self, world, name, others):
        super().__init__(world)
        self.name, self.others = name, others
        self.asked_ids, self.messages, self.cancelled = [], [], []
        self.delay_s, self.silent = 0.0, False
        self.away_s = 0.0
        """How long calls take."""
        self.info = INFO
        self.trouble = lambda _message: None

    def message(self, peer, message, frames):
        if isinstance(message, InferCancel):
            self.cancelled += message.ids
        if not isinstance(message, Infer):
            return
        self.asked_ids += message.ids
        self.messages.append(message)
        if not self.silent:
            copies = [bytes(frame) for frame in frames]
            asyncio.get_running_loop().call_later(self.delay_s, self._answer, peer, message, copies)

    def _answer(self, peer, message, frames):
        error = self.trouble(message)
        try:
            if error is not None:
                wait = int(getattr(error, "retry_after", 0) * 1000)
                peer.send(InferFailed(message.ids, error.code, error.text, error.hint, wait))
                return
            values = [(np.frombuffer(frame, "float32") * 2).tobytes() for frame in frames]
            outputs = tuple(TensorSpec("y", i.dtype, i.shape) for i in message.inputs[:1])
            answer = Inferred(message.ids, message.rows, message.model, 7, "int8", f"device-of-{self.name}", outputs, 5)
            peer.send(answer, values[:1])
        except errors.Disconnected:
            return

    async def called(self, peer, method, params):
        await asyncio.sleep(self.away_s)
        match method:
            case "edges":
                return [msgspec.to_builtins(parent_of(n), builtin_types=(bytes,)) for n in (self.name, *self.others)]
            case "metadata":
                if params["model"] != "double":
                    raise errors.NotFound("no such model")
                return msgspec.to_builtins(self.info)
        return await super().called(peer, method, params)


class EdgeNode(ParentNode):
    """Config: its name, and the other edges that it names."""

    def __init__(self, world, config):
        super().__init__(world, config)
        self.handler = self.down._handler = EdgeHandler(world, self.name, config[1])


def member(world, name="app", role="client", parents=("a",)):
    """An identity that has logged in."""
    return world, identity(name), Membership(
        certificate(name, role), CLOUD.public, tuple(map(parent_of, parents)), name, role, ""
    )  # fmt: skip


class Stage:
    """Two edges and an application."""

    def __init__(self, sim, edges):
        self.sim = sim
        for name in edges:
            sim.add(name, EdgeNode, (name, tuple(e for e in edges if e != name)))

    def __getitem__(self, name):
        return self.sim.node(name).handler

    async def client(self, urls=(), **options):
        """Open, and connected to all edges that it keeps at hand."""
        client = AsyncClient(urls, member=member(self.sim.world("app")), **options)
        await client.open()
        await until(lambda: all(front.live for front in client._core.fronts))
        return client


def play(scenario, *, edges=("a", "b"), faults=TOLD, seed=1, urls=("mem://a",), **options):
    """Run `scenario(stage, client)`."""
    with Simulation(seed, faults) as sim:

        async def run():
            stage = Stage(sim, edges)
            await asyncio.sleep(0.1)
            client = await stage.client(urls, **options)
            try:
                await scenario(stage, client)
            finally:
                await client.close()

        sim.run(run(), until=600)


def rows(*values):
    """A float32 array with two columns."""
    return np.array([[value, value] for value in values], np.float32)
