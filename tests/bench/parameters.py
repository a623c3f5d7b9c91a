"""A parameter server with a worker five times slower than the others: synchronous, asynchronous, stale-synchronous.

A cloud, two edges with a shard each and four device processes train the handwritten digits; a step lasts as long as it
sleeps, so that what is measured is who waits for whom. `python -m tests.bench parameters` prints the rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from tests.bench.table import Row
from tests.bench.tree import Tree

WORKERS = 4
SLOWER = 5.0
STALENESS = 16
EVERY = 4
"""Local steps of a push."""
STEP_S = float(os.environ.get("PARAMETERS_STEP_S", "0.06"))
ROUNDS, STEPS = int(os.environ.get("PARAMETERS_ROUNDS", "9")), 16
SETTLED = 2
"""Rounds at the beginning that are not timed: processes start, and a lead is run out."""
TASK = '''
import time
from pathlib import Path

import numpy as np
import torch
from msrt.training.task import Task


class Digits(Task):
    """Softmax regression: it has one optimum, so that losses can be compared. A batch lasts `step_s`, for a slow
    worker longer."""

    def model(self):
        return torch.nn.Linear(64, 10)

    def data(self, node):
        self.index = node.index
        with np.load(Path(__file__).with_name("digits.npz")) as file:
            x, y = file["x"].astype(np.float32) / 16, file["y"].astype(np.int64)
        test, train = slice(0, 400), slice(400, None)
        mine = slice(node.index, None, node.count)
        return (x[train][mine], y[train][mine]), (x[test], y[test])

    def loss(self, model, batch):
        if model.training:
            self._last(self.options["step_s"] * (self.options["slower"] if self._slow() else 1.0))
        return super().loss(model, batch)

    def _last(self, seconds):
        """Asleep, or at work: then of processor time."""
        if not self.options["bound"]:
            time.sleep(seconds)
            return
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def _slow(self):
        """One worker always, or another one every ten steps of the others."""
        moves, count = self.options["moves"], self.options["workers"]
        if not moves:
            return self.index == 0
        return int(time.time() / (10 * self.options["push_s"])) % count == self.index
'''
JOB = """
name = "{name}"
task = "task:Digits"
rounds = {rounds}
min_nodes = {workers}
compression = "fp32"
seed = 1
[train]
batch = 16
lr = 0.2
momentum = 0.0
weight_decay = 0.01
[server]
lr = 1.0
schedule = "cosine"
[parameter_server]
push = "delta"
push_every = {every}
steps = {steps}
{mode}
[options]
step_s = {step_s}
push_s = {push_s}
slower = {slower}
moves = {moves}
bound = {bound}
workers = {workers}
"""


@dataclass
class Curve:
    """What a job's report said of its rounds."""

    rounds: list[dict[str, Any]] = field(default_factory=list)

    def speed(self, first: int = SETTLED) -> float:
        """Pushes a second."""
        timed = self.rounds[first:]
        return sum(row["pushes"] for row in timed) / sum(row["seconds"] for row in timed)

    @property
    def loss(self) -> float:
        """On data that no worker trains on, at the beginning of the last round: after the same epochs in every mode."""
        return float(self.rounds[-1]["loss"])

    @property
    def gap(self) -> int:
        """The most that a worker was ahead of another."""
        return max(row["gap"] for row in self.rounds)


def bundle(
    tree: Tree, name: str, mode: str, *, rounds: int, steps: int = STEPS, workers: int = WORKERS,
    step_s: float = STEP_S, slower: float = 1.0, moves: bool = False, bound: bool = False,
) -> Path:  # fmt: skip
    """A job's folder."""
    folder = tree.path / name
    folder.mkdir()
    digits = load_digits()
    np.savez_compressed(folder / "digits.npz", x=digits.data.astype(np.uint8), y=digits.target.astype(np.uint8))
    (folder / "task.py").write_text(TASK)
    text = JOB.format(
        name=name, rounds=rounds, workers=workers, steps=steps, mode=mode, step_s=step_s / EVERY, push_s=step_s,
        every=EVERY, slower=slower, moves=str(moves).lower(), bound=str(bound).lower(),
    )  # fmt: skip
    (folder / "job.toml").write_text(text)
    return folder


def run(tree: Tree, name: str, mode: str, *, slower: float = SLOWER, moves: bool = False) -> Curve:
    """One job to its end."""
    folder = bundle(tree, name, mode, rounds=ROUNDS, slower=slower, moves=moves)
    report = tree.path / f"{name}.json"
    tree.cli("train", "run", str(folder), "--report", str(report), timeout_s=300)
    return Curve(json.loads(report.read_text())["rounds"])


def rows() -> list[Row]:
    """Ratios of pushes a second; losses after the same epochs."""
    ssp = f'mode = "ssp"\nstaleness = {STALENESS}'
    with Tree() as tree:
        for region in ("north", "south"):
            tree.edge(f"edge-{region}", region)
        for number in range(WORKERS):
            tree.device(f"device{number}", ("north", "south")[number % 2])
        even = run(tree, "even", 'mode = "sync"', slower=1.0)
        sync = run(tree, "sync", 'mode = "sync"')
        free = run(tree, "async", 'mode = "async"')
        moving_sync = run(tree, "moving-sync", 'mode = "sync"', moves=True)
        moving = run(tree, "moving-ssp", ssp, moves=True)
        fixed = run(tree, "fixed-ssp", ssp)
    what = f"1 of {WORKERS} workers {SLOWER:g}x slower"
    beside = f"{sync.speed():.1f} pushes/s; {even.speed():.1f} with none slow"
    worst = max(abs(curve.loss / sync.loss - 1) for curve in (free, moving, moving_sync, fixed))
    return [
        Row(f"{what}: asynchronous over synchronous", free.speed() / sync.speed(), "x", ">=", 2.5, beside),
        Row(f"{what}, another one every 10 steps: stale-synchronous (s = {STALENESS}) over synchronous",
            moving.speed() / moving_sync.speed(), "x", ">=", 2.5, f"{moving_sync.speed():.1f} pushes/s"),
        Row(f"{what}, always the same: stale-synchronous over synchronous", fixed.speed() / sync.speed(), "x", "", 0.0,
            "the bound holds the others back"),
        Row(f"{what}: how far a worker was ahead, stale-synchronous (s = {STALENESS})", float(fixed.gap), "clocks",
            "<=", float(STALENESS), f"asynchronous {free.gap}, moving {moving.gap}, synchronous {sync.gap}"),
        Row(f"{what}: loss after the same epochs, furthest from synchronous", 100 * worst, "%", "<=", 2.0,
            f"synchronous {sync.loss:.4f}, asynchronous {free.loss:.4f}, stale {moving.loss:.4f} and {fixed.loss:.4f}"),
    ]  # fmt: skip
