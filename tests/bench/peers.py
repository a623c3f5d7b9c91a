"""What users would pick instead, each a process in a virtual environment of its own beside the user's caches, and the
floor under everything that is served by uvicorn. All are asked with the same body."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

from tests.bench.load import Answer, Ask, answer
from tests.bench.tree import Proc, mlp, until

UVICORN = (
    "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "$port", "--log-level", "critical", "--no-access-log",
    "--loop", "uvloop", "--http", "httptools", "--lifespan", "off",
)  # fmt: skip
SESSION = """
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession("mlp.onnx", options)
"""


class Peer(NamedTuple):
    """How it is installed and started. In `argv` and `files`, `$port`, `$port1`, `$port2` and `$folder` are its
    own."""

    name: str
    requires: tuple[str, ...]
    """Of its environment; none: it runs in ours."""
    argv: tuple[str, ...]
    """The first is a program of its environment."""
    path: str
    files: Mapping[str, str]
    """Written into its folder, beside mlp.onnx."""

    @property
    def home(self) -> Path:
        """Its environment, kept between runs."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "msrt-bench" / self.name.split()[0].lower() if self.requires else Path(sys.prefix)


MLSERVER = Peer(
    "MLServer",
    ("mlserver==1.7.1", "numpy", "onnxruntime"),
    ("mlserver", "start", "."),
    "/v2/models/mlp/infer",
    {
        "runtime.py": SESSION
        + """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Mlp(MLModel):
    async def predict(self, payload):
        given = payload.inputs[0]
        (y,) = session.run(None, {given.name: NumpyCodec.decode_input(given)})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
""",
        # no pool of workers: in process it is the faster here
        "settings.json": """{"debug": false, "parallel_workers": 0, "host": "127.0.0.1", "http_port": $port,
"grpc_port": $port1, "metrics_port": $port2, "logging_settings": null}""",
        "model-settings.json": '{"name": "mlp", "implementation": "runtime.Mlp", "parameters": {"uri": "mlp.onnx"}}',
    },
)
FASTAPI = Peer(
    "FastAPI",
    ("fastapi", "uvicorn[standard]", "numpy", "onnxruntime"),
    UVICORN,
    "/infer",
    {
        "app.py": SESSION
        + """
import numpy
from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/infer")
async def infer(request: Request):
    given = (await request.json())["inputs"][0]
    x = numpy.array(given["data"], numpy.float32).reshape(given["shape"])
    return {"y": session.run(None, {"x": x})[0].tolist()}
"""
    },
)
RAY = Peer(
    "Ray Serve",
    ("ray[serve]==2.60.0", "numpy", "onnxruntime"),
    ("python", "app.py"),
    "/infer",
    {
        "app.py": """
import os
import signal
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import serve


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.2})
class Mlp:
    def __init__(self):
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession("$folder/mlp.onnx", options)
        self.numpy = numpy

    async def __call__(self, request):
        given = (await request.json())["inputs"][0]
        x = self.numpy.array(given["data"], self.numpy.float32).reshape(given["shape"])
        return {"y": self.session.run(None, {"x": x})[0].tolist()}


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ray.init(
    num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=200_000_000,
    _temp_dir="$folder/t",
)
quiet = {"log_level": "ERROR", "enable_access_log": False}
serve.start(http_options={"host": "127.0.0.1", "port": $port}, logging_config=quiet)
serve.run(Mlp.bind(), route_prefix="/infer")
while True:
    signal.pause()
"""
    },
)


def floor(given: Answer, name: str = "raw ASGI floor") -> Peer:
    """The bare server with an application that takes any body and gives this answer: no server on it can be faster."""
    kept = [(key, value) for key, value in given.headers.items() if key not in {"date", "server", "connection"}]
    app = f"""
HEADERS = [(key.encode(), value.encode()) for key, value in {kept!r}]
BODY = bytes.fromhex("{given.body.hex()}")


async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({{"type": "http.response.start", "status": 200, "headers": HEADERS}})
    await send({{"type": "http.response.body", "body": BODY}})
"""
    return Peer(name, (), UVICORN, "/", {"app.py": app})


def install(peer: Peer) -> str:
    """Make its environment unless it is there. Returns why not, or nothing."""
    return _install(peer.home, peer.requires) if peer.requires else ""


def venv(cache: str, name: str, requires: tuple[str, ...]) -> tuple[Path, str]:
    """An environment beside the user's caches, made unless it is there; and why there is none, or nothing."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / cache / name
    return home, _install(home, requires)


def _install(home: Path, requires: tuple[str, ...]) -> str:
    stamp = home / ".installed"
    if stamp.exists():
        return ""
    home.parent.mkdir(parents=True, exist_ok=True)
    for argv in (
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input", *requires],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=420, check=False)
        except subprocess.TimeoutExpired:
            return "not installed within 420 s"
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["pip failed"])[-1][:200]
    stamp.touch()
    return ""


def start(peer: Peer, folder: Path, ask: Ask | None = None) -> tuple[Proc, Ask]:
    """The process, when it answers, and what to ask it: `ask`, else the small MLP's, at its own address."""
    folder.mkdir()
    ports = free_ports(3)
    own = {"folder": folder, "port": ports[0], "port1": ports[1], "port2": ports[2]}
    (folder / "mlp.onnx").write_bytes(mlp())
    for name, text in peer.files.items():
        (folder / name).write_text(Template(text).safe_substitute(own))
    program, *rest = (Template(word).safe_substitute(own) for word in peer.argv)
    proc = Proc(["env", f"PYTHONPATH={folder}", str(peer.home / "bin" / program), *rest], folder / "log", cwd=folder)
    url = f"http://127.0.0.1:{ports[0]}{peer.path}"
    ask = Ask(url) if ask is None else ask._replace(url=url)
    try:
        until(f"{peer.name} answers", lambda: _alive(peer, proc) and answer(ask).status == 200, 90)
    except BaseException:
        proc.stop()
        raise
    return proc, ask


def _alive(peer: Peer, proc: Proc) -> bool:
    if proc.popen.poll() is not None:
        raise RuntimeError(f"{peer.name} ended: {proc.log.read_text()[-1500:]}")
    return True


def free_ports(count: int) -> list[int]:
    """So many that nobody listens at."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
