"""A hundred hot updates on one device while it is asked without a pause."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from msrt import errors
from msrt.inference.answer import infer
from msrt.inference.engine import Engine
from msrt.inference.keeper import Keeper
from msrt.inference.slots import Slots
from msrt.protocol.messages import Infer, TensorSpec
from tests.runtime.inference.models import manifest_of, mlp, placed, vouch

UPDATES, SETTLED = 100, 20
GROWTH = 6 << 20
"""Bytes; one model takes about 3 MiB, so one that is kept in twenty updates would show."""
SIZES = (4, 700, 700, 3)
X = np.ones((1, 4), np.float32)
ASK = (Infer((1,), (1,), "net", (TensorSpec("x", "FP32", (1, 4)),)), [X.tobytes()])


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class House:
    """A keeper with a thread for its loads, and files that come from a dictionary."""

    def __init__(self, pool):
        loop = asyncio.get_running_loop()
        self.files, self.changed = {}, asyncio.Event()
        world = SimpleNamespace(
            now=loop.time, offload=lambda work, *args: loop.run_in_executor(pool, work, *args), random=random.Random(0)
        )  # fmt: skip
        self.slots = Slots()
        self.keeper = Keeper(
            world, self.slots, Engine(), fetch=self.fetch, vouch=vouch, changed=self.changed.set
        )  # fmt: skip

    async def fetch(self, digest):
        return self.files[digest]

    def assign(self, version, data):
        manifest = manifest_of({"fp32": data}, version=version)
        self.files = {manifest.variants["fp32"].digest: data}
        self.keeper.assign(version, [placed(manifest)])

    async def settled(self, version):
        """That version serves alone, or has failed."""
        async with asyncio.timeout(20):
            while (version, "failed") not in self.states() and self.states() != [(version, "ready")]:
                self.changed.clear()
                await self.changed.wait()

    def states(self):
        return [(state.version, state.state) for state in self.slots.reports()]


def running(scenario):
    async def main():
        with ThreadPoolExecutor(2) as pool:
            house = House(pool)
            task = asyncio.create_task(house.keeper.run())
            try:
                await scenario(house)
            finally:
                task.cancel()
                await asyncio.wait([task])

    asyncio.run(main())


async def asked_without_a_pause(house, answers, failures):
    """A request a turn of the loop."""
    while True:
        try:
            message, frames = infer(house.slots, *ASK, device="d", now=lambda: 0.0)
            answers.append((message.version, bytes(frames[0])))
        except errors.MsrtError as error:
            failures.append(error)
        await asyncio.sleep(0)


@pytest.mark.slow
def test_the_hundredth_update_works_as_the_first():
    """No request fails, each answer is that of the version which it names, versions only go up; memory and open files
    of the last eighty updates stay where they were."""
    files = [mlp(sizes=SIZES, seed=seed) for seed in range(4)]
    right = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0].tobytes()
        for data in files
    ]

    async def scenario(house):
        answers, failures = [], []
        house.assign(1, files[1])
        await house.settled(1)
        load = asyncio.create_task(asked_without_a_pause(house, answers, failures))
        seen, memory, handles = Counter(), [], []
        last = 1
        for version in range(2, UPDATES + 2):
            house.assign(version, files[version % 4])
            await house.settled(version)
            await asyncio.sleep(0.002)
            for found, frame in answers:
                assert last <= found <= version
                assert frame == right[found % 4]
                last = found
                seen[found] += 1
            answers.clear()
            memory.append(resident())
            handles.append(open_files())
        load.cancel()
        assert failures == []
        assert set(seen) == set(range(1, UPDATES + 2))
        assert max(memory[-5:]) - max(memory[:SETTLED]) <= GROWTH, [size >> 20 for size in memory]
        assert max(handles[SETTLED:]) <= max(handles[:SETTLED])

    running(scenario)


def test_a_version_that_cannot_serve_never_answers_and_the_next_one_does():
    """Bad files between good ones: each is reported as failed, the good one before it answers on."""

    async def scenario(house):
        answers, failures = [], []
        house.assign(1, mlp(seed=1))
        await house.settled(1)
        load = asyncio.create_task(asked_without_a_pause(house, answers, failures))
        for version in range(2, 12):
            house.assign(version, b"no model" if version % 2 else mlp(seed=version))
            await house.settled(version)
            await asyncio.sleep(0.002)
            good = version if version % 2 == 0 else version - 1
            assert house.slots.serving("net").placement.version == good
            if version % 2:
                assert house.slots.reports()[-1].error
        load.cancel()
        assert failures == []
        assert {version for version, _ in answers} == {1, 2, 4, 6, 8, 10}

    running(scenario)
