"""An engine inside a master: what a dispatcher sends it, and what it answers."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from msrt import errors
from msrt.inference import local
from msrt.inference.local import LocalEngine
from msrt.protocol.messages import Infer, InferCancel, InferFailed, Inferred, TensorSpec

from .models import manifest_of, mlp, placed, vouch

FILE = mlp(seed=1)


class Bench:
    """An engine in a real loop with real threads; every answer lies in a list."""

    def __init__(self):
        self.heard, self.threads, self.told = [], [], asyncio.Event()
        self.wanted = asyncio.Event()

        async def offload(work, *args):
            def noted():
                self.threads.append(threading.current_thread().name)
                return work(*args)

            return await asyncio.get_running_loop().run_in_executor(None, noted)

        async def fetch(digest):
            assert digest == hashlib.sha256(FILE).hexdigest()
            return FILE

        world = SimpleNamespace(now=asyncio.get_running_loop().time, offload=offload)
        self.engine = LocalEngine(
            world, "node", "edge", fetch=fetch, vouch=vouch, heard=self.hear, changed=self.wanted.set
        )

    def hear(self, message, frames):
        self.heard.append((message, frames))
        self.told.set()

    async def until(self, condition):
        end = asyncio.get_running_loop().time() + 20
        while not condition():
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.002)

    def ask(self, ident=1, rows=1, model="net", **more):
        spec = TensorSpec("x", "FP32", (rows, 4))
        self.engine.send(Infer((ident,), (rows,), model, (spec,), **more), (bytes(16 * rows),))

    async def ready(self):
        self.engine.assign((placed(manifest_of({"fp32": FILE})),))
        await self.until(lambda: [m.state for m in self.engine.models] == ["ready"])


def run(scenario):
    async def main():
        bench = Bench()
        task = asyncio.ensure_future(bench.engine.run())
        try:
            await scenario(bench)
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


def test_it_answers_what_it_holds():
    """After the first assignment, in a later turn of the loop than the question."""

    async def scenario(bench):
        await bench.ready()
        bench.ask(rows=3)
        assert not bench.heard
        await bench.until(lambda: bench.heard)
        message, frames = bench.heard[0]
        assert isinstance(message, Inferred)
        assert (message.ids, message.rows, message.device, message.outputs[0].shape) == ((1,), (3,), "edge", (3, 3))
        assert np.frombuffer(frames[0], np.float32).shape == (9,)

    run(scenario)


def test_what_it_does_not_hold_fails_by_name():
    """Before any model came, another model, and a model that left."""

    async def scenario(bench):
        bench.ask()
        await bench.ready()
        bench.ask(model="other")
        bench.engine.assign(())
        bench.ask()
        await bench.until(lambda: len(bench.heard) == 3)
        assert [message.code for message, _ in bench.heard] == ["not_found"] * 3
        assert all(isinstance(message, InferFailed) for message, _ in bench.heard)

    run(scenario)


def test_a_slow_call_leaves_the_loop(monkeypatch):
    """Over a millisecond it runs in a thread; in its turn, and not at all when nobody waits any more."""

    async def scenario(bench):
        await bench.ready()
        monkeypatch.setattr(local, "INLINE_US", 0)
        before = len(bench.threads)
        bench.ask(1)
        bench.ask(2)
        bench.ask(3)
        bench.engine.send(InferCancel((2,)))
        bench.ask(4, deadline_ms=0)
        await bench.until(lambda: len(bench.heard) == 2)
        bench.ask(5)
        await bench.until(lambda: len(bench.heard) == 3)
        assert [message.ids for message, _ in bench.heard] == [(1,), (3,), (5,)]
        assert len(bench.threads) - before == 3
        assert "MainThread" not in bench.threads[before:]

    run(scenario)


def test_what_waits_is_bounded(monkeypatch):
    """One more is refused at once, as a link does that is full."""

    async def scenario(bench):
        await bench.ready()
        monkeypatch.setattr(local, "INLINE_US", 0)
        monkeypatch.setattr(local, "WAITING", 3)
        for ident in range(3):
            bench.ask(ident)
        with pytest.raises(errors.Overloaded):
            bench.ask(9)

    run(scenario)


def test_a_bad_request_fails_alone():
    """The engine's own check, as on a device."""

    async def scenario(bench):
        await bench.ready()
        bench.engine.send(Infer((1,), (1,), "net", (TensorSpec("x", "FP32", (1, 4)),)), (b"short",))
        await bench.until(lambda: bench.heard)
        assert bench.heard[0][0].code == "invalid_tensor"

    run(scenario)
