"""How an application uses the client library, as a type checker reads it: `mypy --strict` passes on this file."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import msrt
from msrt import errors
from msrt.client import AsyncClient, Label, SyncSequence

ROWS: NDArray[np.float32] = np.zeros((1, 64), np.float32)


def plain() -> None:
    """Without an event loop."""
    with msrt.connect(["http://127.0.0.1:8000"], key="msrt_x", deadline_s=2.0) as client:
        assert_type(client, msrt.Client)
        answer = client.infer("digits", {"x": ROWS}, deadline=1.0, priority=1, outputs=["y"], version=2)
        assert_type(answer, msrt.Answer)
        assert_type(answer.version, int)
        assert_type(answer.seconds, float)
        assert_type(answer["y"], NDArray[Any])
        assert_type(client.infer_many("digits", [{"x": ROWS}, ROWS]), list[msrt.Answer])
        for each in client.stream("digits", ({"x": ROWS} for _ in range(3)), ordered=False, window=8):
            assert_type(each, msrt.Answer)
        with client.sequence("speech") as sequence:
            assert_type(sequence, SyncSequence)
            assert_type(sequence.infer(ROWS, end=True), msrt.Answer)
            assert_type(sequence.lost, errors.SequenceLost | None)
        assert_type(client.classify("digits", ROWS), list[list[Label]])
        future = client.submit("digits", ROWS)
        assert_type(future.result(), msrt.Answer)


async def looped() -> None:
    """In one."""
    async with msrt.AsyncClient("http://127.0.0.1:8000", ca="authorities.pem") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.infer("digits", ROWS), msrt.Answer)
        async for each in client.stream("digits", [ROWS, ROWS]):
            assert_type(each, msrt.Answer)
        async with client.sequence("speech", deadline=0.5) as sequence:
            assert_type(await sequence.infer({"x": ROWS}), msrt.Answer)
        for label, score, number in (await client.classify("digits", ROWS, top=1))[0]:
            assert_type((label, score, number), tuple[str, float, int])


def wrong(client: msrt.Client) -> None:
    """What must not pass: an ignore that is not needed is an error too."""
    client.infer("digits", ROWS, deadline="soon")  # type: ignore[arg-type]
    client.infer(7, ROWS)  # type: ignore[arg-type]
    client.infer("digits", ROWS, prioritty=1)  # type: ignore[call-arg]
    for answer in client.stream("digits", [ROWS]):
        answer.colour  # type: ignore[attr-defined] # noqa: B018
