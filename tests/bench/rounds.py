"""What a federated round costs beside the training itself: eight devices that do nothing, over real CURVE connections.

Beside it the bytes alone: bare CURVE sockets that move as many between as many processes, with no checks, sums or disk;
and Flower, networked, with as many clients and parameters, in the same run (`flower.py`; it has no int8 of its own, so
the same figure stands against both). Of NVIDIA FLARE the figures seen on this kind of machine stand.
`python -m tests.bench rounds` prints them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from statistics import median

from tests.bench.flower import Unavailable, round_s
from tests.bench.table import Row
from tests.bench.tree import Tree

DEVICES = 8
BIG = 10_000_000
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
FLOWER_S, NVFLARE_S, FLOWER_EMPTY_S, NVFLARE_EMPTY_S = 20.0, 4.4, 9.5, 2.5
SEEN = "seen on this kind of machine: Flower networked {} s, NVFlare in-process {} s"
TASK = """
import torch
from msrt.training.task import Task


class Model(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body = torch.nn.Parameter(torch.randn(size))
        self.step = torch.nn.Parameter(torch.zeros(1))


class Nothing(Task):
    def model(self):
        return Model(int(self.options["size"]))

    def data(self, node):
        one = (torch.zeros(1, 1), torch.zeros(1))
        return one, (torch.zeros(0, 1), torch.zeros(0))

    def loss(self, model, batch):
        return model.step.sum()

    def optimiser(self, model, settings):
        return Moves(model)


class Moves:
    def __init__(self, model):
        self.model = model

    def zero_grad(self):
        pass

    def step(self):
        with torch.no_grad():
            self.model.body.add_(1e-5 * (1 + float(self.model.body[0]) % 1e-3))
"""
JOB = """
name = "{name}"
task = "task:Nothing"
rounds = {rounds}
deadline_s = 120.0
quorum = 1.0
min_nodes = {devices}
compression = {{device = "{up}", region = "{up}", down = "{down}"}}
[limits]
memory_mb = 4096
[options]
size = {size}
"""


def _job(tree: Tree, name: str, size: int, up: str, down: str) -> list[float]:
    """Seconds from one checkpoint to the next."""
    folder = tree.path / name
    folder.mkdir()
    (folder / "task.py").write_text(TASK)
    text = JOB.format(name=name, rounds=ROUNDS, devices=DEVICES, up=up, down=down, size=size)
    (folder / "job.toml").write_text(text)
    report = tree.path / f"{name}.json"
    tree.cli("train", "run", str(folder), "--report", str(report))
    walls = [row["wall"] for row in json.loads(report.read_text())["rounds"]]
    return [after - before for before, after in pairwise(walls)]


LIMIT = """
import sys, threading, time, zmq
role, port, count, size, public, secret = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:7]
piece = bytes(1 << 20)
pieces = -(-size // len(piece))
context = zmq.Context()
socket = context.socket(zmq.ROUTER if role == "server" else zmq.DEALER)
if role == "server":
    socket.router_mandatory = True
    socket.curve_server, socket.curve_secretkey, socket.curve_publickey = True, secret.encode(), public.encode()
    socket.bind(f"tcp://127.0.0.1:{port}")
    names = set()
    while len(names) < count:
        names.add(socket.recv_multipart()[0])
    began = time.perf_counter()
    for _ in range(pieces):
        for name in names:
            socket.send_multipart([name, piece], copy=False)
    left = count * pieces
    while left:
        socket.recv_multipart(copy=False)
        left -= 1
    print(time.perf_counter() - began)
    socket.close(linger=0)
else:
    mine = zmq.curve_keypair()
    socket.curve_serverkey, (socket.curve_publickey, socket.curve_secretkey) = public.encode(), mine
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(b"here")
    for _ in range(pieces):
        socket.recv(copy=False)
    for _ in range(pieces):
        socket.send(piece, copy=False)
    socket.close(linger=-1)
context.term()
"""


def byte_limit(size: int, port: int = 17_431) -> float:
    """Seconds in which bare CURVE sockets bring `size` bytes to each of eight processes and as many back."""
    import zmq  # noqa: PLC0415 - here only

    public, secret = (key.decode() for key in zmq.curve_keypair())
    common = [str(port), str(DEVICES), str(size), public, secret]
    server = subprocess.Popen([sys.executable, "-c", LIMIT, "server", *common], stdout=subprocess.PIPE, text=True)
    clients = [subprocess.Popen([sys.executable, "-c", LIMIT, "client", *common]) for _ in range(DEVICES)]
    try:
        out, _ = server.communicate(timeout=120)
        return float(out)
    finally:
        for process in [server, *clients]:
            process.kill()
            process.wait()


def rows() -> list[Row]:
    """Seconds a round."""
    with Tree() as tree:
        tree.edge("edge", "north")
        for number in range(DEVICES):
            tree.device(f"device{number}", "north")
        empty = median(_job(tree, "empty", 1, "fp32", "fp32"))
        plain = median(_job(tree, "plain", BIG, "fp32", "fp32"))
        small = median(_job(tree, "small", BIG, "int8", "int8"))
    limit = median(byte_limit(4 * BIG) for _ in range(3))
    flower, why = _flower()
    who = f"{DEVICES} devices that do nothing"
    beside = SEEN.format(FLOWER_S, NVFLARE_S)
    return [
        Row(f"an empty round, {who}", 1000 * empty, "ms", "<=", 50.0, SEEN.format(FLOWER_EMPTY_S, NVFLARE_EMPTY_S)),
        Row(f"a round of 10 M parameters as float32, {who}", plain, "s", "<=", FLOWER_S / 10, beside),
        Row("the same bytes over bare CURVE sockets, over it", limit / plain, "x", ">=", 0.6, f"{limit:.2f} s"),
        Row(f"a round of 10 M parameters as int8 both ways, {who}", small, "s", "<=", FLOWER_S / 25, beside),
        Row("Flower networked in the same run, over float32", flower and flower / plain, "x", ">=", 10.0, why),
        Row("Flower networked in the same run, over int8 both ways", flower and flower / small, "x", ">=", 25.0, why),
    ]


def _flower() -> tuple[float | None, str]:
    """Seconds of its round, or nothing; and what stands beside it."""
    try:
        found = round_s(BIG, DEVICES)
    except Unavailable as why:
        return None, str(why)
    return found, f"Flower {found:.1f} s a round"


if __name__ == "__main__":
    began = time.monotonic()
    for row in rows():
        sys.stdout.write(f"{row.what:70} {row.value:.4g} {row.unit} {row.bound} {row.limit} {row.peer}\n")
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
