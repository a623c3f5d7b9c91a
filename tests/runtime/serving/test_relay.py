"""Requests answered by another master: each caller gets its own rows, however the answers travel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from msrt import errors
from msrt.buffers import Buffer
from msrt.protocol.messages import Infer, InferFailed, Inferred, Message, TensorSpec
from msrt.serving.backend import InferRequest
from msrt.serving.relay import Passed, Relay


class Wire:
    """What a relay knows of a peer, keeping what was sent."""

    name = "south"

    def __init__(self) -> None:
        self.sent: list[Infer] = []

    def send(self, message: Message, _frames: Sequence[Buffer] = ()) -> None:
        assert isinstance(message, Infer)
        self.sent.append(message)


def row(value: float) -> InferRequest:
    frame = np.full((1, 2), value, np.float32).tobytes()
    return InferRequest("mlp", (TensorSpec("x", "FP32", (1, 2)),), (frame,), timeout_s=5.0)


def answered(ids: tuple[int, ...], rows: tuple[int, ...], total: int) -> tuple[Inferred, list[Buffer]]:
    """An answer whose row n holds n."""
    y = np.repeat(np.arange(total, dtype=np.float32), 3).tobytes()
    return Inferred(ids, rows, "mlp", 1, "fp32", "dev", (TensorSpec("y", "FP32", (total, 3)),)), [y]


async def asked(relay: Relay, wire: Wire, count: int) -> list[asyncio.Task[Passed]]:
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(relay.ask(wire, row(n), 5.0, 1)) for n in range(count)]  # type: ignore[arg-type]
    await asyncio.sleep(0)  # each has sent its request now
    return tasks


def test_answers_that_travel_in_one_message_reach_each_its_caller() -> None:
    """The other master joins what one of its devices computed in one batch."""

    async def run() -> None:
        relay, wire = Relay(lambda: 0.0), Wire()
        tasks = await asked(relay, wire, 3)
        ids = tuple(message.ids[0] for message in wire.sent)
        relay.answered(wire, *answered(ids, (1, 1, 1), 3))  # type: ignore[arg-type]
        frames = [np.frombuffer((await task).answer.frames[0], np.float32) for task in tasks]
        assert [list(frame) for frame in frames] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
        assert len(relay) == 0

    asyncio.run(run())


def test_rows_that_do_not_add_up_fail_those_who_wait() -> None:
    """Nobody gets rows that may be another's."""

    async def run() -> None:
        relay, wire = Relay(lambda: 0.0), Wire()
        tasks = await asked(relay, wire, 2)
        ids = tuple(message.ids[0] for message in wire.sent)
        relay.answered(wire, *answered(ids, (1, 1), 3))  # type: ignore[arg-type]
        for task in tasks:
            with pytest.raises(errors.MalformedFrame):
                await task

    asyncio.run(run())


def test_a_failure_of_several_fails_each() -> None:
    """One message may say of several that they cannot be answered."""

    async def run() -> None:
        relay, wire = Relay(lambda: 0.0), Wire()
        tasks = await asked(relay, wire, 2)
        ids = tuple(message.ids[0] for message in wire.sent)
        relay.failed(wire, InferFailed(ids, "overloaded", "full"))  # type: ignore[arg-type]
        for task in tasks:
            with pytest.raises(errors.Overloaded):
                await task

    asyncio.run(run())
