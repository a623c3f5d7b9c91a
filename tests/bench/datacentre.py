"""The cluster of one node beside plain torchrun: step time, start, memory with recomputed activations; and what two
servers send each other by DiLoCo and by DDP. `python -m tests.bench datacentre` prints the rows.

Both sides are two CPU processes on gloo with the same model, data and optimiser. Segments of steps are taken in turn:
whoever is not measured waits for its next one.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import psutil
import torch

from msrt.learning.aggregate import RunningSum
from msrt.learning.compress import open_codec
from msrt.learning.optimise import Optimiser
from msrt.training.bundle import pack
from msrt.training.cluster.local import ClusterLocal
from msrt.training.local import Local, load_task
from msrt.training.settings import parse_config
from msrt.training.task import Node, Task
from tests.bench.stats import median_ratio
from tests.bench.table import Row
from tests.bench.tree import until

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "cluster"
NODE = Node("n0")
PAIRS, STARTS, SAMPLES, BATCH = 12, 3, 8192, 128
STEPS = SAMPLES // BATCH
DEPTH, LARGE = 60, 1 << 17
"""Layers, and samples of one step, where 16 MiB of activations a layer are kept on each rank."""
TASK = f"""
import os, time
from pathlib import Path
import numpy as np
import psutil
import torch
from msrt import training

class Wide(training.Task):
    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
            torch.nn.Linear(512, 10),
        )

    def data(self, node):
        rng = np.random.default_rng(0)
        x = rng.standard_normal(({SAMPLES}, 256)).astype(np.float32)
        return (x, rng.integers(0, 10, {SAMPLES})), (x[:8], rng.integers(0, 10, 8))

    def loss(self, model, batch):
        if os.environ.get("RANK") == "0" and not hasattr(self, "begun"):
            self.begun = True
            Path(self.options["told"]).write_text(str(time.monotonic()))
        return super().loss(model, batch)

class Deep(training.Task):
    def model(self):
        layers = [layer for _ in range({DEPTH}) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
        return torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))

    def data(self, node):
        rng = np.random.default_rng(0)
        x = rng.standard_normal(({LARGE}, 64), dtype=np.float32)
        return (x, rng.integers(0, 10, {LARGE})), (x[:8], rng.integers(0, 10, 8))

    def loss(self, model, batch):
        if model.training and "RANK" in os.environ:
            said = Path("/proc/self/status").read_text()
            peak = next(line.split()[1] for line in said.splitlines() if line.startswith("VmHWM"))
            Path(self.options["told"] + os.environ["RANK"]).write_text(peak)
        return super().loss(model, batch)
"""
PLAIN = f"""
import os, sys, time
from pathlib import Path
import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

folder = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Sequential(
    torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)
))
rng = np.random.default_rng(0)
x = torch.from_numpy(rng.standard_normal(({SAMPLES}, 256)).astype(np.float32))
y = torch.from_numpy(rng.integers(0, 10, {SAMPLES}))
optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
turn = 0
if rank == 0:
    (folder / "first").write_text(str(time.monotonic()))
while True:
    while not (folder / f"go-{{turn}}").exists():
        if (folder / "end").exists():
            dist.destroy_process_group()
            sys.exit()
        time.sleep(0.01)
    dist.barrier()
    began, total = time.perf_counter(), torch.zeros(())
    order = torch.randperm({SAMPLES}, generator=torch.Generator().manual_seed(turn))
    for at in range(0, {SAMPLES}, {BATCH}):
        chosen = order[at : at + {BATCH}][rank::world]
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimiser.step()
        total += loss.detach()
    if rank == 0:
        (folder / "new").write_text(str(1000 * (time.perf_counter() - began) / {STEPS}))
        (folder / "new").rename(folder / f"done-{{turn}}")
    turn += 1
"""


class Plain:
    """The script above under torchrun."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "plain.py").write_text(PLAIN)
        self.folder, self.turn = folder, 0
        torchrun = Path(sys.executable).with_name("torchrun")
        command = [str(torchrun)] if torchrun.is_file() else [sys.executable, "-m", "torch.distributed.run"]
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--standalone", "--nproc-per-node", "2", str(folder / "plain.py"), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = self._process.pid
        until("torchrun's first step", (folder / "first").exists, 120)
        self.start_s = float(until("its time", (folder / "first").read_text)) - self.began

    def step_ms(self) -> float:
        """Mean of one segment."""
        (self.folder / f"go-{self.turn}").touch()
        done = self.folder / f"done-{self.turn}"
        until("torchrun's segment", done.exists, 120)
        self.turn += 1
        return float(done.read_text())

    def close(self) -> None:
        (self.folder / "end").touch()
        self._process.wait(60)


class Ours:
    """One task of TASK in a group of two."""

    def __init__(self, folder: Path, kind: str, batch: int, more: str = "", epochs: int = 1) -> None:
        sources, work = folder / "sources", folder / "work"
        for path in (sources, work):
            path.mkdir(parents=True)
        self.told = folder / "told"
        (sources / "bench.py").write_text(TASK)
        (sources / "job.toml").write_text(
            f'name = "bench"\ntask = "bench:{kind}"\n[train]\nepochs = {epochs}\nbatch = {batch}\nlr = 0.01\n'
            f"[cluster]\nprocesses = 2\n{more}\n[options]\ntold = {json.dumps(str(self.told))}\n"
        )
        config = parse_config((sources / "job.toml").read_text())
        self.local = ClusterLocal(
            load_task(config.task, sources, config.options), config, time.monotonic, sources, work
        )
        self.weights, self.round = self.local.initial(), 0

    def train(self) -> dict[str, float]:
        """One round; `self.delta` is what it changed."""
        self.round += 1
        self.delta, _, metrics = self.local.train(self.weights, NODE, self.round)
        return metrics

    @property
    def pid(self) -> int:
        """Of the agent."""
        agent = self.local.group._agent
        assert agent is not None
        return agent.pid

    def close(self) -> None:
        self.local.group.close()


def _cpu_s(pid: int) -> float:
    """Spent by a process and all below it, so far."""
    one = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (one, *one.children(recursive=True)))


def speed_rows(folder: Path) -> list[Row]:
    """Step time in pairs, start in pairs."""
    starts = []
    for at in range(STARTS):
        plain = Plain(folder / f"plain-{at}")
        ours = Ours(folder / f"ours-{at}", "Wide", BATCH)
        began = time.monotonic()
        ours.train()
        starts.append((float(ours.told.read_text()) - began, plain.start_s))
        if at < STARTS - 1:
            ours.close()
            plain.close()
    pairs, used = [], []
    turns = [(lambda: ours.train()["step_ms"], ours.pid), (plain.step_ms, plain.pid)]
    for at in range(PAIRS + 1):
        times, spent = [0.0, 0.0], [0.0, 0.0]
        for turn in (0, 1) if at % 2 else (1, 0):
            segment, pid = turns[turn]
            before = _cpu_s(pid)
            times[turn] = segment()
            spent[turn] = _cpu_s(pid) - before
        pairs.append((times[0], times[1]))
        used.append((spent[0], spent[1]))
    ours.close()
    plain.close()
    busy, least, most = median_ratio(used[1:])
    ratio, low, high = median_ratio(pairs[1:])
    more = median(mine - theirs for mine, theirs in starts)
    mine, theirs = (median(pair[at] for pair in pairs[1:]) for at in (0, 1))
    note = f"95 % of medians {low:.3f} to {high:.3f}; {mine:.2f} and {theirs:.2f} ms, 2 processes, gloo"
    beside = ", ".join(f"{one:.1f} and {other:.1f} s" for one, other in starts)
    return [
        Row(f"DDP step through msrt over plain torchrun, {PAIRS} pairs of {STEPS} steps", ratio, "x", "<=", 1.03, note),
        Row("its CPU time", busy, "x", "", 0, f"{least:.3f} to {most:.3f}; all processes of a group, agents too"),
        Row("start of a cluster's round, to the first step, above torchrun's", more, "s", "<=", 3.0, beside),
    ]


def memory_rows(folder: Path) -> list[Row]:
    """Peak resident memory of a worker, torch and all, with and without recomputing."""
    peaks, losses, deltas = [], [], []
    for name, more in (("kept", ""), ("recomputed", "checkpoint_activations = true")):
        ours = Ours(folder / name, "Deep", LARGE, more, epochs=2)
        losses.append(ours.train()["train_loss"])
        deltas.append(ours.delta)
        ours.close()
        peaks.append(max(int((folder / f"{name}" / f"told{rank}").read_text()) / 1024 for rank in (0, 1)))
    note = f"{peaks[1]:.0f} of {peaks[0]:.0f} MiB (VmHWM), torch's own 270 in both"
    apart = float(np.linalg.norm(deltas[1] - deltas[0]) / np.linalg.norm(deltas[0]))
    return [
        Row(
            f"peak memory of a worker, activations recomputed, {DEPTH} layers",
            peaks[1] / peaks[0],
            "x",
            "<=",
            0.6,
            note,
        ),
        Row("its loss apart from the other's", abs(losses[1] - losses[0]), "", "<=", 1e-6, f"weights by {apart:.1g}"),
    ]


class _Both(Task):
    """A task on the data of several nodes."""

    def __init__(self, one: Task, nodes: list[Node]) -> None:
        super().__init__(one.options)
        self.one, self.nodes = one, nodes

    def model(self) -> Any:
        return self.one.model()

    def optimiser(self, model: Any, settings: Any) -> Any:
        return self.one.optimiser(model, settings)

    def data(self, node: Node) -> Any:
        parts = [self.one.data(one) for one in self.nodes]
        return tuple(tuple(map(np.concatenate, zip(*half, strict=True))) for half in zip(*parts, strict=True))


def diloco_rows(servers: int = 2) -> list[Row]:
    """The example's job over two servers, and every step averaged over both instead: bytes that cross, and the loss.

    A group of processes trains what one process trains (tests/runtime/training/cluster), so one does here. Every step
    averaged is one process with both batches; in a ring each server sends 2 (n - 1) / n of the gradients a step.
    """
    config = pack(EXAMPLE).config
    task = load_task(config.task, EXAMPLE, config.options)
    nodes = [Node(f"n{at}", index=at, count=servers) for at in range(servers)]
    local = Local(task, config)
    size, weights = local.layout.size, local.initial()
    codec, outer = open_codec("int8", local.layout), Optimiser(config.server.recipe, size)
    sent, steps = 0, 0
    for number in range(1, config.rounds + 1):
        total = RunningSum(size)
        for node in nodes:
            delta, samples, _ = local.train(weights, node, number)
            payload = codec.encode(delta)
            total.add(payload, codec, samples)
        steps += config.train.epochs * math.ceil(samples / config.train.batch)
        sent += len(payload) + 4 * size
        outer.step(weights, total.mean(), config.server.rate(number - 1, config.rounds))
    _, rare = local.evaluate(weights, nodes)
    settings = msgspec.structs.replace(
        config.train, batch=servers * config.train.batch, epochs=config.rounds * config.train.epochs
    )
    often = Local(_Both(task, nodes), msgspec.structs.replace(config, train=settings))
    start = often.initial()
    delta, _, _ = often.train(start, NODE, 1)
    _, every = local.evaluate(start + delta, nodes)
    ring = 2 * 2 * (servers - 1) / servers * 4 * size * steps
    note = f"{sent / 1e6:.1f} of {ring / 1e6:.0f} MB a server, both ways: {config.rounds} rounds, {steps} steps"
    return [
        Row("bytes between two servers, DDP in every step over DiLoCo", ring / sent, "x", "", 0, note),
        Row(
            "accuracy by DiLoCo, the example", rare["accuracy"], "", "", 0,
            f"every step {every['accuracy']:.3f}; losses {rare['loss']:.3f} and {every['loss']:.3f}",
        ),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="msrt-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        return [*speed_rows(folder), *memory_rows(folder), *diloco_rows()]
