"""A small job for groups of processes, and one process that does the same."""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore

from msrt.training.cluster.group import Group
from msrt.training.cluster.local import ClusterLocal
from msrt.training.cluster.worker import work
from msrt.training.local import Local, load_task
from msrt.training.settings import JobConfig, parse_config
from msrt.training.task import Node

NODE = Node("n0")
TASK = """
import os, signal
from pathlib import Path
import numpy as np
import torch
from msrt import training

class Small(training.Task):
    turn = 0

    def model(self):
        layers = [torch.nn.Linear(16, 24)]
        for _ in range(6):
            layers += [torch.nn.Tanh(), torch.nn.Linear(24, 24)]
        return torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(24, 2))

    def data(self, node):
        rng = np.random.default_rng(node.index)
        x = rng.standard_normal((135, 16)).astype(np.float32)
        y = (x.sum(axis=1) > 0).astype(np.int64)
        return (x[:105], y[:105]), (x[105:], y[105:])

    def loss(self, model, batch):
        if os.environ.get("RANK") == "1" and model.training:
            self.turn += 1
            door = Path(self.options["doors"], f"step-{self.turn}")
            if door.exists():
                word = door.read_text()
                door.unlink()
                if word == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("the tape is torn")
        return super().loss(model, batch)

class Adam(Small):
    def optimiser(self, model, settings):
        return torch.optim.AdamW(model.parameters(), lr=settings.lr)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = torch.nn.Linear(16, 32)
        self.blocks = torch.nn.ModuleList([Block() for _ in range(3)])
        self.leave = torch.nn.Linear(32, 2)

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x)

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(32)
        self.up, self.down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
        self.register_buffer("scale", torch.full((1,), 0.5))

    def forward(self, x):
        return x + self.scale * self.down(torch.nn.functional.gelu(self.up(self.norm(x))))

class Blocks(Small):
    def model(self):
        return Net()

class Heavy(Small):
    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(16, 1 << 20), torch.nn.Tanh(), torch.nn.Linear(1 << 20, 2))

class Wrong(Blocks):
    # Its plan divides what the softmax mixes.
    def parallel_plan(self, model):
        model.blocks[0].forward = lambda x: model.blocks[0].down(torch.softmax(model.blocks[0].up(x), dim=-1))
        return {"blocks.0.up": "column", "blocks.0.down": "row"}
"""


class Forked:
    """Workers forked from a server that has all of torch loaded, and no agent to start them again: quick.

    Stands where `Group` has its agent's process.
    """

    def __init__(self, sources: Path, directory: Path, count: int, memory: int) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self._store = TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(
            ["msrt.training.cluster.worker", "torch._dynamo.utils", "torch.distributed.checkpoint",
             "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp",
             "torch.distributed.tensor.parallel", "torch.distributed.pipelining", "torch.optim"]
        )  # fmt: skip
        self._workers = [
            forks.Process(target=_one, args=(rank, count, str(sources), str(directory), port, memory))
            for rank in range(count)
        ]
        for worker in self._workers:
            worker.start()

    def poll(self) -> int | None:
        codes = [worker.exitcode for worker in self._workers]
        if any(codes):
            self.kill()
            return next(code for code in codes if code)
        return None if None in codes else 0

    def terminate(self) -> None:
        self.kill()

    def kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def wait(self, timeout: float | None = None) -> None:
        for worker in self._workers:
            worker.join(timeout)
            if worker.is_alive():
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)


def _one(rank: int, count: int, sources: str, directory: str, port: int, memory: int) -> None:
    if memory:
        used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, ((int(used.split()[1]) << 10) + memory,) * 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_RESTART_COUNT": "0", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    work(sources, directory, port)


class ForkedGroup(Group):
    """A group without torchrun's agent."""

    count = 2
    memory = 0
    """Bytes that a worker may take beyond what torch has; 0: any."""

    def _launch(self) -> Any:
        return Forked(self.sources, self.directory, self.count, self.memory)


class Job:
    """Its files, and a Local of each kind. `more` is for [cluster], `train` for [train]; `work`: where another lay."""

    def __init__(
        self, folder: Path, more: str = "", train: str = "", *, kind: str = "Small", count: int = 2,
        work: Path | None = None, agent: bool = False,
    ) -> None:  # fmt: skip
        self.sources, self.work = folder / "sources", work or folder / "work"
        self.sources.mkdir(parents=True)
        self.work.mkdir(exist_ok=True)
        (self.sources / "small.py").write_text(TASK)
        (self.sources / "job.toml").write_text(
            f'name = "small"\ntask = "small:{kind}"\n[train]\nepochs = 2\nbatch = 16\n{train}\n'
            f'[cluster]\nprocesses = {count}\n{more}\n[options]\ndoors = "{folder}"\n'
        )
        self.config: JobConfig = parse_config((self.sources / "job.toml").read_text())
        self.doors = folder
        torch.set_num_threads(1)
        self._task = load_task(self.config.task, self.sources, self.config.options)
        self.one = Local(self._task, self.config)
        self.many = ClusterLocal(self._task, self.config, time.monotonic, self.sources, self.work)
        if not agent:
            self.many.group.close()
            self.many.group = ForkedGroup(self.sources, self.work / "cluster")
            self.many.group.count = count

    def distance(self, round_: int) -> float:
        """Of what the group trained to what one process trains, as a part of the latter's norm."""
        weights = self.one.initial()
        mine, samples, self.metrics = self.many.train(weights, NODE, round_)
        expected, count, _ = self.one.train(weights, NODE, round_)
        assert samples == count == 105
        return float(np.linalg.norm(mine - expected) / np.linalg.norm(expected))
