"""Whole jobs of the examples in child processes, two at most, by the code of `msrt train simulate`."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from msrt.training.bundle import pack
from msrt.training.local import Local, load_task
from msrt.training.settings import Baseline
from msrt.training.simulation import Chances, Shape, Simulation

__all__ = ["DATA", "Case", "Found", "run"]

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data"))
PROCESSES = 2


class Case(msgspec.Struct, frozen=True):
    """One job: an example, and what is otherwise than there."""

    example: str
    nodes: int
    seed: int
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    train: dict[str, Any] = {}
    pace: dict[str, Any] = {}
    stragglers: float = 0.0
    judged: int = 0
    """The model is judged on all test data after each of so many last rounds."""
    every: int = 0
    """And after every so many rounds, until `goal` is reached."""
    goal: float = 2.0
    baseline: bool = False


class Found(msgspec.Struct, frozen=True):
    """What came of it."""

    curve: dict[int, float]
    """Accuracy on all test data by round."""
    reached: int | None
    """The round that reached the goal."""
    bytes_up: int
    """Of all updates of all nodes."""
    updates: int
    alone: float | None
    pooled: float | None
    cpu_s: float

    @property
    def accuracy(self) -> float:
        """Mean of what was judged."""
        return sum(self.curve.values()) / len(self.curve)


def run(cases: Sequence[Case]) -> list[Found]:
    """All of them, in their order."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_one, cases))


def _one(case: Case) -> Found:
    torch.set_num_threads(1)
    began = time.process_time()
    job, curve, reached = _open(case), dict[int, float](), None
    rounds = job.config.rounds
    for line in job.run():
        number = line["round"]
        if number > rounds - case.judged or (case.every and number % case.every == 0):
            curve[number] = job.judge()["accuracy"]
            if curve[number] >= case.goal:
                reached = number
                break
    if case.baseline:
        job.finish()
    return Found(
        curve, reached, sum(line["bytes_from_nodes"] for line in job.lines), sum(line["nodes"] for line in job.lines),
        job.end.get("alone_mean"), job.end.get("pooled"), time.process_time() - began,
    )  # fmt: skip


def _open(case: Case) -> Simulation:
    folder = EXAMPLES / case.example
    config = pack(folder).config
    options = config.options | {"seed": case.seed} | case.options
    config = msgspec.structs.replace(
        config, seed=case.seed, options=options, baseline=Baseline() if case.baseline else None,
        train=msgspec.structs.replace(config.train, **case.train),
        pace=msgspec.structs.replace(config.pace, **case.pace), **case.settings,
    )  # fmt: skip
    local = Local(load_task(config.task, folder, options), config)
    shape, chances = Shape((1,), case.nodes), Chances(case.stragglers)
    return Simulation(local, shape, time.monotonic, time.time, str(DATA), chances)
