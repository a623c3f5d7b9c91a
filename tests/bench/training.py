"""Federated training on the handwritten digits, out of fold over all 1,797, against each device alone and pooled data.

Runs the pure parts in one process: the same local training, compression, regional sums and rounds as the tree, without
its links. `python -m tests.bench.training [SEEDS]` prints the rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
import torch

from msrt.learning.aggregate import RunningSum, check
from msrt.learning.compress import ErrorFeedback, open_codec
from msrt.protocol.messages import UpdateMeta
from msrt.training.bundle import pack
from msrt.training.local import Local, load_task
from msrt.training.settings import JobConfig
from msrt.training.task import Node

DIGITS = Path(__file__).parents[2] / "deploy" / "examples" / "digits"
COUNT, REGIONS, FOLDS = 6, 2, 5
SEEDS = (0, 1, 2, 3, 4)
NODES = tuple(Node(f"node{i}", index=i, count=COUNT) for i in range(COUNT))


class Row(msgspec.Struct, frozen=True):
    """One line of the table; bound is >= or <= or empty where it is only shown."""

    what: str
    value: float
    unit: str
    bound: str = ""
    limit: float = 0.0

    @property
    def holds(self) -> bool:
        return {">=": self.value >= self.limit, "<=": self.value <= self.limit, "": True}[self.bound]


@dataclass
class Scores:
    """Out-of-fold accuracies, one entry a seed."""

    int8: list[float] = field(default_factory=list)
    fp32: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    pooled: list[float] = field(default_factory=list)
    round_s: list[float] = field(default_factory=list)


def _local(config: JobConfig, seed: int, fold: int) -> Local:
    options = config.options | {"fold": fold, "split": seed}
    config = msgspec.structs.replace(config, seed=seed, options=options)
    return Local(load_task(config.task, DIGITS, options), config)


def federated(local: Local, encoding: str) -> Iterator[np.ndarray]:
    """The global weights after each round: devices to regional sums to the cloud, compressed on both hops."""
    weights = local.initial()
    codec = open_codec(encoding, local.layout)
    devices = [ErrorFeedback(codec, seed) for seed, _ in enumerate(NODES)]
    regions = [ErrorFeedback(codec, -1 - seed) for seed in range(REGIONS)]
    for round_ in range(1, local.config.rounds + 1):
        total = RunningSum(weights.size)
        for region, upward in enumerate(regions):
            part = RunningSum(weights.size)
            for node in NODES[region::REGIONS]:
                delta, samples, _ = local.train(weights, node, round_)
                payload = devices[node.index].encode(delta, round_)
                check(payload, codec)
                part.add(payload, codec, samples)
            total.add(upward.encode(part.mean(), round_), codec, part.weight)
        weights = weights + total.mean()
        yield weights


def _out_of_fold(config: JobConfig, seed: int, scores: Scores) -> None:
    """Five folds of one seed; every image is judged once by a model that never saw it."""
    right = {"int8": 0.0, "fp32": 0.0, "alone": 0.0, "pooled": 0.0}
    seen = 0
    for fold in range(FOLDS):
        local = _local(config, seed, fold)
        for encoding in ("int8", "fp32"):
            began = time.perf_counter()
            *_, weights = federated(local, encoding)
            scores.round_s.append((time.perf_counter() - began) / config.rounds / COUNT)
            samples, metrics = local.evaluate(weights, NODES)
            right[encoding] += metrics["accuracy"] * samples
        alone, pooled = local.baseline(NODES)
        right["alone"] += fmean(alone) * samples
        right["pooled"] += pooled * samples
        seen += samples
    assert seen == 1797
    for name, count in right.items():
        getattr(scores, name).append(count / seen)


def accuracy_rows(seeds: tuple[int, ...] = SEEDS) -> list[Row]:
    """The accuracies and their differences."""
    torch.set_num_threads(1)
    config = pack(DIGITS).config
    scores = Scores()
    for seed in seeds:
        _out_of_fold(config, seed, scores)
    int8, fp32, alone, pooled = map(fmean, (scores.int8, scores.fp32, scores.alone, scores.pooled))
    return [
        Row("federated accuracy on digits, out of fold", int8, "", ">=", 0.95),
        Row("above the mean of devices alone", 100 * (int8 - alone), "points", ">=", 12.0),
        Row("below pooled data", 100 * (pooled - int8), "points", "<=", 2.0),
        Row("int8 against float32 updates, paired", 100 * abs(int8 - fp32), "points", "<=", 0.5),
        Row("mean of devices alone", alone, ""),
        Row("pooled data", pooled, ""),
        Row("local training, one node and round", 1000 * fmean(scores.round_s), "ms"),
    ]


def size_rows() -> list[Row]:
    """The compressed update with the meta that travels beside it, against its float32 bytes."""
    local = _local(pack(DIGITS).config, 0, 0)
    size = local.layout.size
    assert size >= 10_000
    meta = UpdateMeta(
        "digits-0123456789abcdef", 20, {"a" * 26: 240}, "b" * 26 + "/1234567890123456789", "int8", size,
        {"loss": 0.123456789012, "accuracy": 0.951234567890, "train_loss": 0.1234567890, "seconds": 0.123456789},
    )  # fmt: skip
    sent = open_codec("int8", local.layout).bytes + len(msgspec.msgpack.encode(meta))
    return [Row(f"int8 update of {size:,} parameters, headers included", 100 * sent / (4 * size), "%", "<=", 26.0)]


def rows() -> list[Row]:
    """All of them."""
    return [*accuracy_rows(), *size_rows()]


if __name__ == "__main__":
    chosen = SEEDS[: int(sys.argv[1])] if len(sys.argv) > 1 else SEEDS
    for row in [*size_rows(), *accuracy_rows(chosen)]:
        verdict = "" if not row.bound else f"{row.bound} {row.limit:g}  {'holds' if row.holds else 'FAILS'}"
        sys.stdout.write(f"{row.what:62} {row.value:9.4f} {row.unit:13} {verdict}\n")
