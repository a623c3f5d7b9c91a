"""The epochs of one round, the same on every rank: order of the samples, checkpoints, mean loss."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from msrt.learning.vector import Vector
from msrt.training.cluster.data import Samples
from msrt.training.cluster.engine import Engine
from msrt.training.cluster.messages import DoRound
from msrt.training.cluster.saved import Checkpoints
from msrt.training.seeds import number_of, reseed
from msrt.training.settings import JobConfig

__all__ = ["train"]


def train(
    engine: Engine, samples: Samples, weights: Vector, config: JobConfig, command: DoRound, saved: Checkpoints
) -> dict[str, float]:
    """Train from these weights, or from the round's last checkpoint; returns the metrics. Collective.

    Batches are those that one process would take, in its order (`msrt.training.local`), whatever the number of ranks.
    """
    assert config.cluster is not None
    every, settings = config.cluster.saves_every, config.train.at(command.round)
    number = number_of(config.seed, command.round, command.node.index)
    generator = torch.Generator().manual_seed(number)
    batch = engine.batch
    steps = -(-len(samples) // batch)
    whole = steps * settings.epochs
    most = min(whole, max(1, round(command.work * whole)))
    engine.begin(weights, settings)
    first = done = saved.resume(engine)
    dist.barrier()  # who waits for whom before the first step is not in the time of steps
    began = time.perf_counter()  # noqa: TID251 - a worker lives in real time
    order = torch.empty(0)
    while done < most:
        epoch, at = divmod(done, steps)
        if done == first or at == 0:
            order = _order(generator, len(samples), epoch + 1 if done == first else 1)
            if at == 0:
                engine.total()
        reseed(number_of(number, done, engine.share))
        engine.step(samples, order[at * batch : (at + 1) * batch])
        done += 1
        if command.until and _late(command.until):
            break
        if every and done % every == 0 and done < most:
            saved.save(engine, done)
    seconds = time.perf_counter() - began  # noqa: TID251
    seen = len(samples) if done % steps == 0 else done % steps * batch
    return {
        "train_loss": engine.total() / seen,
        "work": done / whole,
        "processes": float(engine.world),
        "batch": float(batch),
        "steps": float(done),
        "resumed_at": float(first),
        "step_ms": 1000 * seconds / max(1, done - first),
    }


def _order(generator: torch.Generator, length: int, turns: int) -> torch.Tensor:
    """The last of so many permutations."""
    order = torch.empty(0)
    for _ in range(turns):
        order = torch.randperm(length, generator=generator)
    return order


def _late(until: float) -> bool:
    """What rank 0's clock says. Collective."""
    word = torch.tensor([time.monotonic() > until], dtype=torch.int32)  # noqa: TID251
    if dist.get_backend() == "nccl":
        word = word.cuda()
    dist.broadcast(word, 0)
    return bool(word)
