"""A small job for real groups of processes, and one process that does the same."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from msrt.training.cluster.local import ClusterLocal
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
"""


class Job:
    """Its files, and a Local of each kind. `more`: the table [cluster], the defaults of the test aside."""

    def __init__(self, folder: Path, more: str = "", train: str = "") -> None:
        self.sources, self.work = folder / "sources", folder / "work"
        self.sources.mkdir(parents=True)
        self.work.mkdir()
        (self.sources / "small.py").write_text(TASK)
        (self.sources / "job.toml").write_text(
            f'name = "small"\ntask = "small:Small"\n[train]\nepochs = 2\nbatch = 16\n{train}\n'
            f'[cluster]\nprocesses = 2\n{more}\n[options]\ndoors = "{folder}"\n'
        )
        self.config: JobConfig = parse_config((self.sources / "job.toml").read_text())
        self._task = load_task(self.config.task, self.sources, self.config.options)
        self.one = Local(self._task, self.config)
        self.many = ClusterLocal(self._task, self.config, time.monotonic, self.sources, self.work)

    def distance(self, round_: int) -> float:
        """Of what the group trained to what one process trains, as a part of the latter's norm."""
        weights = self.one.initial()
        mine, samples, self.metrics = self.many.train(weights, NODE, round_)
        expected, count, _ = self.one.train(weights, NODE, round_)
        assert samples == count == 105
        return float(np.linalg.norm(mine - expected) / np.linalg.norm(expected))
