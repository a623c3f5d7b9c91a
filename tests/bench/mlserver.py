"""The peer: MLServer with onnxruntime behind it, in a virtual environment of its own beside the user's caches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.bench.tree import BODY, Proc, mlp, post, until

REQUIRES = ("mlserver==1.7.1", "numpy", "onnxruntime")
RUNTIME = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Mlp(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        (y,) = self.session.run(None, {given.name: NumpyCodec.decode_input(given)})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
"""


def home() -> Path:
    """Where the peer's environment is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msrt-bench" / "mlserver"


def install() -> str:
    """Make the environment unless it is there. Returns why not, or nothing."""
    python = home() / "bin" / "python"
    stamp = home() / ".installed"
    if stamp.exists():
        return ""
    home().parent.mkdir(parents=True, exist_ok=True)
    for argv in (
        [sys.executable, "-m", "venv", str(home())],
        [str(python), "-m", "pip", "install", "--quiet", "--no-input", *REQUIRES],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=420, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["pip failed"])[-1][:200]
    stamp.touch()
    return ""


def start(folder: Path) -> tuple[Proc, str]:
    """The process and its URL for inference. No pool of workers: in process it is the faster here."""
    folder.mkdir()
    ports = _free(3)
    (folder / "mlp.onnx").write_bytes(mlp())
    (folder / "runtime.py").write_text(RUNTIME)
    settings = {
        "debug": False, "parallel_workers": 0, "host": "127.0.0.1",
        "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "logging_settings": None,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "mlp", "implementation": "runtime.Mlp", "parameters": {"uri": str(folder / "mlp.onnx")}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    path = [str(home() / "bin" / "mlserver"), "start", "."]
    proc = Proc(["env", f"PYTHONPATH={folder}", *path], folder / "log", cwd=folder)
    url = f"http://127.0.0.1:{ports[0]}/v2/models/mlp/infer"
    until("MLServer answers", lambda: proc.popen.poll() is not None or post(url, BODY)[0] == 200, 60)
    return proc, url


def _free(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
