"""The largest batch that one process's memory holds, found by training on batches that are thrown away."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import torch
import torch.distributed as dist

from msrt.errors import InvalidJob
from msrt.training.cluster.data import Samples
from msrt.training.cluster.place import Place
from msrt.training.cluster.shares import largest
from msrt.training.task import Task

__all__ = ["largest_batch"]

KEPT: Final = "batch.json"
MARGIN: Final = 0.9
"""Of the memory; the rest is for what trials do not see: fragments, buffers of the links, other shapes."""
COPIES: Final = 2
"""Of the parameters, beside weights and gradients: momentum, and the buckets in which gradients travel."""
SHORT: Final = ("memory", "bad_alloc", "primitive")
"""In what torch says of an allocation that failed, on CUDA, on CPU, and inside oneDNN."""


def largest_batch(task: Task, model: torch.nn.Module, place: Place, samples: Samples, directory: Path) -> int:
    """Samples a rank, the same on all. Kept in the directory: a round trained again must have the same batches.

    Collective. The model is left without gradients. Raises InvalidJob where not even one sample fits.
    """
    path = directory / KEPT
    kept = msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.is_file() else {}
    found = kept.get("batch", 0) if kept.get("world") == place.world else 0
    if not found:
        bound = -(-len(samples) // place.world)
        # Trials need nobody else, so one that fails leaves no rank waiting.
        found = largest(lambda size: _fits(task, model, samples, size, place), bound)
    least = torch.tensor([found], device=place.device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    if not least:
        raise InvalidJob(
            "not even a batch of one sample fits", hint="raise [limits] memory_mb, or checkpoint_activations"
        )
    if place.rank == 0:
        path.write_bytes(msgspec.json.encode({"batch": int(least), "world": place.world}))
    return int(least)


def _fits(task: Task, model: torch.nn.Module, samples: Samples, size: int, place: Place) -> bool:
    fits = True
    with _bounded(place):
        try:
            ballast = [torch.ones_like(value) for value in model.parameters() for _ in range(COPIES)]
            task.loss(model.train(), samples.take(torch.arange(size) % len(samples), place.device)).backward()  # type: ignore[no-untyped-call]
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(word in str(error) for word in SHORT):
                raise
            fits = False
        ballast = []  # noqa: F841 - held until here
    model.zero_grad(set_to_none=True)
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


@contextlib.contextmanager
def _bounded(place: Place) -> Iterator[None]:
    """Leave a margin: of the process's limit, of the device, or of what this machine has for each process."""
    if place.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(MARGIN, place.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place.device)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = soft if soft != resource.RLIM_INFINITY else _used() + _available() // int(os.environ["LOCAL_WORLD_SIZE"])
    resource.setrlimit(resource.RLIMIT_DATA, (int(MARGIN * most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _used() -> int:
    """Bytes of this process's data, as RLIMIT_DATA counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
