"""wrk, the client of every row that stands beside a peer: so many keep-alive connections that ask as fast as they are
answered, from one thread of a process of its own."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tests.bench.tree import BODY, Proc, until

PRESENT = shutil.which("wrk") is not None
MISSING = "skipped: wrk is not on PATH"
JSON = {"Content-Type": "application/json"}
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_DATATYPES = {"float32": "FP32", "int8": "INT8"}


class Ask(NamedTuple):
    """One request, asked again and again."""

    url: str
    body: bytes = BODY.encode()
    headers: Mapping[str, str] = JSON


class Answer(NamedTuple):
    """What came to it; status 0 when nobody answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Run(NamedTuple):
    """What wrk saw in one cell."""

    rate: float
    p50_ms: float
    p99_ms: float
    bad: int
    """Not answered with 2xx, or not at all."""
    cpu_us: tuple[float, ...] = ()
    """Per request, of each process that was watched."""


def binary(url: str, name: str, x: np.ndarray) -> Ask:
    """The tensor in the protocol's binary form, and asked for in it."""
    tensor = {"name": name, "shape": list(x.shape), "datatype": _DATATYPES[x.dtype.name]}
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    said = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return Ask(url, header + x.tobytes(), said)


def answer(ask: Ask, timeout_s: float = 5.0) -> Answer:
    """Ask once."""
    parts = urlsplit(ask.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", parts.path, ask.body, dict(ask.headers))
        got = connection.getresponse()
        return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
    except (OSError, http.client.HTTPException):
        return Answer(0, {}, b"")
    finally:
        connection.close()


def answered(ask: Ask, timeout_s: float = 60.0) -> Answer:
    """The first answer with 200. Raises TimeoutError."""
    got = Answer(0, {}, b"")

    def done() -> bool:
        nonlocal got
        got = answer(ask)
        return got.status == 200

    until(f"{ask.url} answers", done, timeout_s)
    return got


def lua(ask: Ask) -> str:
    """The script for wrk; every byte of the body by its number, for a tensor may hold any."""
    lines = ["wrk.method = 'POST'", *(f"wrk.headers[{name!r}] = {value!r}" for name, value in ask.headers.items())]
    return "\n".join([*lines, 'wrk.body = "' + "".join(f"\\{byte:03d}" for byte in ask.body) + '"\n'])


def load(ask: Ask, clients: int, folder: Path, seconds: int, watched: Sequence[Proc] = ()) -> Run:
    """One cell."""
    script = folder / "post.lua"
    script.write_text(lua(ask))
    argv = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(script), ask.url]
    before = [proc.cpu_s() for proc in watched]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    spent = [proc.cpu_s() - began for proc, began in zip(watched, before, strict=True)]
    run = parsed(out)
    return run._replace(cpu_us=tuple(1e6 * cpu / (run.rate * seconds) for cpu in spent) if run.rate else ())


def parsed(out: str) -> Run:
    """The figures in what wrk printed."""
    bad = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", out)))
    bad += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out)))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if rate is None:
        raise ValueError(out)
    return Run(float(rate[1]), _latency(out, "50"), _latency(out, "99"), bad)


def _latency(out: str, percent: str) -> float:
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)", out)
    if found is None:
        raise ValueError(out)
    return float(found[1]) * _MS[found[2]]
