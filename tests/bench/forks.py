"""How soon a job's process can be asked, and what one costs: forked from a process with torch loaded, or started alone.

Pairs in turn; a start is from the bundle to the answer of the loaded task. CPU seconds are the runner's own; memory is
what only it has (private dirty pages) with four of them alive. `python -m tests.bench forks` prints the rows.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from msrt.training.bundle import pack
from msrt.training.forks import ForkServer
from msrt.training.host import TrainerHost
from msrt.world.field import field_world
from tests.bench.table import Row

PAIRS = 5
ALIVE = 4
TASK = """
import torch
from msrt.training.task import Task


class Small(Task):
    def model(self):
        return torch.nn.Linear(8, 2)

    def data(self, node):
        raise RuntimeError
"""
TICKS = os.sysconf("SC_CLK_TCK")


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _own(pid: int) -> float:
    """MiB that it alone has."""
    found = re.search(r"^Private_Dirty:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


async def _start(host: TrainerHost, data: bytes) -> tuple[float, float]:
    """(seconds, CPU seconds) of a start."""
    began = time.monotonic()
    await host.start(data)
    return time.monotonic() - began, _cpu(host.pid or 0)


async def _measure(folder: Path, data: bytes) -> dict[str, tuple[float, float, float]]:
    """By kind: seconds, CPU seconds, MiB of one."""
    forks, world = ForkServer(), field_world(folder / "state")
    kinds = {"forked": forks, "alone": None}
    hosts = {
        kind: [TrainerHost(world, folder / f"{kind}{at}", forks=made) for at in range(ALIVE)]
        for kind, made in kinds.items()
    }
    seen: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    try:
        await hosts["forked"][0].start(data)  # torch is loaded with the first
        for _ in range(PAIRS):
            for kind, made in hosts.items():
                seen[kind].append(await _start(made[0], data))
        found = {}
        for kind, made in hosts.items():
            for host in made[1:]:
                await host.start(data)
            own = median(_own(host.pid or 0) for host in made)
            found[kind] = median(wall for wall, _ in seen[kind]), median(cpu for _, cpu in seen[kind]), own
        return found
    finally:
        for host in (*hosts["forked"], *hosts["alone"]):
            await host.stop()
        await forks.close()


def rows() -> list[Row]:
    """Three figures, what a process started alone takes beside them."""
    with tempfile.TemporaryDirectory(prefix="msrt-bench-") as name:
        folder, job = Path(name), Path(name) / "job"
        job.mkdir()
        (job / "job.toml").write_text('name = "small"\ntask = "task:Small"\n')
        (job / "task.py").write_text(TASK)
        found = asyncio.run(_measure(folder, pack(job).data))
    forked, alone = found["forked"], found["alone"]
    what = "a job's process, forked with torch loaded"
    beside = f"alone {alone[0]:.2f} s: {alone[0] / forked[0]:.0f} x"
    return [
        Row(f"{what}: until it can be asked", forked[0], "s", peer=beside),
        Row(f"{what}: its CPU until then", forked[1], "s", "<=", 0.3, f"alone {alone[1]:.2f} s"),
        Row(f"{what}: memory that only it has, of {ALIVE}", forked[2], "MiB", peer=f"alone {alone[2]:.0f} MiB"),
    ]  # fmt: skip
