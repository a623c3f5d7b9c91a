"""A tree of real processes on loopback, started as a user would, by the command line."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MSRT = str(Path(sys.executable).parent / "msrt")
POLL_S = 0.005


def until(what: str, done: Callable[[], object], timeout_s: float = 20.0) -> object:
    """Poll until it is true. Raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = done()
        if value:
            return value
        time.sleep(POLL_S)
    raise TimeoutError(f"{what} did not happen in {timeout_s:g} s")


class Proc:
    """One started process; `seconds` from the start to its word that it is ready."""

    def __init__(self, argv: list[str], log: Path, *, cwd: Path | None = None) -> None:
        self.log = log
        began = time.perf_counter()
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=cwd
            )
        self.pid = self.popen.pid
        self.seconds = 0.0
        self._began = began

    def ready(self, timeout_s: float = 30.0) -> Proc:
        """Wait for the line `ready`."""

        def said() -> bool:
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.popen.args} ended: {self.log.read_text()[-1500:]}")
            return "\nready" in "\n" + self.log.read_text()

        until(f"{self.log.stem}: ready", said, timeout_s)
        self.seconds = time.perf_counter() - self._began
        return self

    def field(self, name: str) -> str:
        """A word that it printed after its name, such as `http`."""
        for line in self.log.read_text().splitlines():
            if line.startswith(f"  {name} "):
                return line.split()[1]
        raise KeyError(name)

    def rss(self) -> float:
        """Resident MiB."""
        return next(
            int(line.split()[1]) / 1024
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )

    def cpu_s(self) -> float:
        """Seconds of processor used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        """Only ever to a process that we started."""
        self.popen.send_signal(number)

    def stop(self) -> None:
        """Ask, then insist."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Tree:
    """Processes and their state directories; gone when the block ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="msrt-bench-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self.procs: dict[str, Proc] = {}

    def __enter__(self) -> Self:
        self.start("cloud", "cloud", "start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proc in reversed(self.procs.values()):
            proc.stop()
        self._folder.cleanup()

    def start(self, name: str, *argv: str) -> Proc:
        """Start `msrt ARGV --state ...` and wait until it is ready."""
        proc = self.procs[name] = Proc([MSRT, *argv, "--state", str(self.path / name)], self.path / f"{name}.log")
        return proc.ready()

    def cli(self, *argv: str, timeout_s: float = 120) -> str:
        """One command of the operator; its standard output."""
        line = [MSRT, *argv, "--state", str(self.path / "cloud")]
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            raise RuntimeError(f"msrt {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def invite(self, *argv: str) -> str:
        return self.cli("invite", *argv)

    def edge(self, name: str, region: str, *more: str) -> Proc:
        return self.start(name, "edge", "join", self.invite("edge", "--region", region), "--name", name, *more)

    def device(self, name: str, region: str, *more: str) -> Proc:
        return self.start(name, "device", "join", self.invite("device", "--region", region), "--name", name, *more)

    def push(self, name: str = "mlp") -> None:
        """The small MLP, rolled out to all devices."""
        model, x = self.path / "mlp.onnx", self.path / "x.npy"
        model.write_bytes(mlp())
        np.save(x, np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32))
        self.cli("model", "push", str(model), "--name", name, "--calibrate", str(x))
        self.cli("model", "rollout", name, "--canary", "50%", "--window", "1")

    def serving(self, url: str, devices: int = 1, model: str = "mlp") -> None:
        """Wait until the edge answers, by so many devices."""
        seen: set[str] = set()

        def answers() -> bool:
            status, body = post(f"{url}/v2/models/{model}/infer", BODY)
            if status == 200:
                seen.add(json.loads(body)["parameters"]["device"])
            return len(seen) >= devices

        until(f"{devices} devices answer at {url}", answers, 30)


X = [round(((i * 37) % 100) / 50 - 1, 3) for i in range(64)]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": X}]})


def post(url: str, body: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body; (0, reason) when nobody answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return 0, str(error).encode()
    finally:
        connection.close()


def mlp() -> bytes:
    """64-128-10, its weights drawn once and for all."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.normal(size=(64, 128)) * 0.1, "b1": np.zeros(128),
        "w2": generator.normal(size=(128, 10)) * 0.1, "b2": np.zeros(10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
