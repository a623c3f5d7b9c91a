"""Load over HTTP from a process of its own, every answer's rows held against the model computed here.

Open: requests are due at Poisson times and timed from then, whatever became of those before, on as many connections as
it takes; so a stall is paid by all who came meanwhile. Closed: so many callers, one request each at a time.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import onnx
from onnx import numpy_helper

from tests.bench.tree import mlp

WRONG = -1
"""The status of an answer that has another's rows."""
INPUTS = 64
GRACE_S = 2.0
"""Beyond the deadline, until an answer counts as none."""


class Seen(NamedTuple):
    """One request."""

    due: float
    """Monotonic, of the machine."""
    took: float
    status: int


class Load:
    """A running generator."""

    def __init__(
        self, url: str, folder: Path, *, rate: float = 0.0, callers: int = 0, seconds: float, deadline_s: float = 10.0
    ) -> None:
        self._target = folder / f"load-{time.monotonic_ns()}.json"
        wish = {"url": url, "rate": rate, "callers": callers, "seconds": seconds, "deadline_s": deadline_s}
        argv = [sys.executable, "-m", "tests.bench.openloop", json.dumps(wish), str(self._target)]
        self._popen = subprocess.Popen(argv)
        self._limit = seconds + deadline_s + GRACE_S + 20

    def result(self) -> list[Seen]:
        """Wait for its end. Raises RuntimeError where it failed."""
        try:
            if self._popen.wait(self._limit):
                raise RuntimeError("the load generator failed")
        finally:
            self._popen.kill()
        return [Seen(*one) for one in json.loads(self._target.read_text())]


def load(url: str, folder: Path, **wish: Any) -> list[Seen]:
    """The same, waited for."""
    return Load(url, folder, **wish).result()


# --- in the process of its own -----------------------------------------------------------------------------------


def _questions() -> list[tuple[list[float], np.ndarray[Any, Any]]]:
    """Inputs, each with its answer by the weights themselves."""
    graph = onnx.load_model_from_string(mlp()).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    x = np.random.default_rng(5).normal(size=(INPUTS, 64)).round(3).astype(np.float32)
    y = np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]
    return [([round(float(v), 3) for v in one], expected) for one, expected in zip(x, y, strict=True)]


class _Connection(asyncio.Protocol):
    """Keep-alive, one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) >= length and self.answer is not None and not self.answer.done():
            self._buffer = b""
            self.answer.set_result((int(lines[0].split()[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError(str(error)))


class _Generator:
    def __init__(self, wish: dict[str, Any]) -> None:
        self.wish = wish
        parts = urlsplit(wish["url"])
        self._host, self._port = parts.hostname, parts.port
        self._limit = wish["deadline_s"] + GRACE_S
        head = f"POST {parts.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        head += f"msrt-deadline-ms: {wish['deadline_s'] * 1000:.0f}\r\n"
        self._asked = []
        for x, expected in _questions():
            body = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": x}]})
            self._asked.append((f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode(), expected))
        self._idle: list[_Connection] = []
        self.out: list[Seen] = []

    async def ask(self, number: int, due: float) -> None:
        request, expected = self._asked[number % INPUTS]
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._limit):
                status, body = await self._exchange(request)
        except (OSError, TimeoutError):
            status, body = 0, b""
        took = time.monotonic() - due
        if status == 200 and not _right(body, expected):
            status = WRONG
        self.out.append(Seen(due, took, status))

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        try:
            connection.answer = loop.create_future()
            connection.transport.write(request)
            answer = await connection.answer
        except BaseException:
            connection.transport.abort()
            raise
        self._idle.append(connection)
        return answer

    async def run(self) -> list[Seen]:
        end = time.monotonic() + self.wish["seconds"]
        if self.wish["callers"]:
            await asyncio.gather(*(self._caller(n, end) for n in range(self.wish["callers"])))
        else:
            await self._open(end)
        return self.out

    async def _caller(self, number: int, end: float) -> None:
        while (now := time.monotonic()) < end:
            await self.ask(number, now)
            number += 7

    async def _open(self, end: float) -> None:
        generator, number = random.Random(11), 0
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while (due := due + generator.expovariate(self.wish["rate"])) < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self.ask(number, due))
                number += 1


def _right(body: bytes, expected: np.ndarray[Any, Any]) -> bool:
    data = json.loads(body)["outputs"][0]["data"]
    return len(data) == len(expected) and bool(np.allclose(data, expected, atol=1e-3))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(_Generator(json.loads(sys.argv[1])).run())))
