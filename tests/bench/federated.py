"""What nodes that differ cost, and what it brings to know: drawing some of 100,000, and SCAFFOLD against averaging.

Digits (scikit-learn) split so that each of six nodes sees three or four of the ten classes mostly; plain descent, four
epochs a round; the simulation runs what a tree runs. Three seeds, the median of the rounds that it took to an accuracy.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import torch

from msrt.learning.history import Seen
from msrt.learning.selection import Strategy, Wanted, select
from msrt.training.local import Local, load_task
from msrt.training.settings import JobConfig
from msrt.training.simulation import Shape, Simulation
from tests.bench.table import Row

DEVICES, ASKED = 100_000, 4_000
STRATEGIES: tuple[Strategy, ...] = ("random", "available", "utility")
DIGITS = Path(__file__).parents[2] / "deploy" / "examples" / "digits"
NODES, ROUNDS, GOAL = 6, 24, 0.9
SEEDS = (0, 1, 2)


def _drawn(strategy: Strategy) -> float:
    """CPU milliseconds of one draw, the best of five: it runs in a thread, beside the loop."""
    rng = np.random.default_rng(0)
    nodes = [hashlib.sha256(b"%d" % number).hexdigest()[:26] for number in range(DEVICES)]
    seen = {
        node: Seen(asked, asked, int(rng.integers(1, 500)), float(rng.random()), float(rng.random()))
        for node, asked in zip(nodes, rng.integers(0, 90, DEVICES).tolist(), strict=True)
    }
    wanted, spent = Wanted(strategy, ASKED, fairness=100), []
    for _ in range(5):
        began = time.process_time()
        chosen = select(nodes, seen, wanted, "job", 91)
        spent.append(1e3 * (time.process_time() - began))
        assert len(chosen) == ASKED
    return min(spent)


def _rounds(algorithm: str, seed: int) -> int:
    """Rounds to the accuracy."""
    table: dict[str, Any] = {
        "name": "digits", "task": "task:Digits", "rounds": ROUNDS, "seed": seed, "quorum": 1.0, "compression": "int8",
        "options": {"split": seed},
        "train": {"epochs": 4, "batch": 16, "lr": 0.1, "momentum": 0.0, "algorithm": algorithm},
    }  # fmt: skip
    config = msgspec.convert(table, JobConfig)
    local = Local(load_task(config.task, DIGITS, config.options), config)
    for line in Simulation(local, Shape((1,), NODES), time.monotonic, time.time).run():
        if (line["accuracy"] or 0.0) >= GOAL:
            return int(line["round"])
    return ROUNDS + 1


def rows() -> list[Row]:
    """A draw by each strategy; rounds of both algorithms."""
    what = f"a draw of {ASKED:,} of {DEVICES:,} devices, fairness 100"
    found = [Row(f"{what}: {strategy}", _drawn(strategy), "ms CPU, in a thread", "<=", 200) for strategy in STRATEGIES]
    torch.set_num_threads(1)
    averaged = median(_rounds("fedavg", seed) for seed in SEEDS)
    steady = median(_rounds("scaffold", seed) for seed in SEEDS)
    said = f"FedAvg {averaged:g} rounds"
    return [*found, Row(f"digits by class, {GOAL:.0%}: SCAFFOLD", steady, "rounds", "<=", averaged, said)]


if __name__ == "__main__":
    for row in rows():
        print(row, file=sys.stdout)  # noqa: T201
