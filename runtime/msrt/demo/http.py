"""A small HTTP/1.1 client on asyncio streams: light enough that what is measured is the server."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.demo.judge import Answer
from msrt.errors import Disconnected, PeerError

__all__ = ["HttpInfer", "question"]


def question(name: str, row: NDArray[np.float32]) -> bytes:
    """The Open Inference Protocol's body that asks about one row."""
    tensor = {"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
    return msgspec.json.encode({"inputs": [tensor]})


class HttpInfer:
    """Asks one edge over kept connections, one request at a time on each."""

    def __init__(self, url: str, model: str, rows: NDArray[np.float32], input_name: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._rows = parts.hostname or "", parts.port or 80, rows
        self._input = input_name
        self._request = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: "
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __call__(self, row: int) -> Answer:
        """Raises Disconnected, PeerError for any status but 200."""
        body = question(self._input, self._rows[row])
        head = f"{self._request}{len(body)}\r\n\r\n"
        try:
            found = await self._ask(head.encode() + body)
        except (OSError, EOFError) as error:
            raise Disconnected(f"{self._host}:{self._port}: {error}") from error
        output, origin = found["outputs"][0], found["parameters"]
        outputs = np.asarray(output["data"], np.float32)
        return Answer(outputs, int(found["model_version"]), origin["variant"], origin["device"])

    async def _ask(self, request: bytes) -> Any:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        found = msgspec.json.decode(await reader.readexactly(length))
        self._idle.append((reader, writer))
        if " 200 " not in head.split("\r\n")[0]:
            raise PeerError(str(found.get("error", found)))
        return found

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
