"""A node's life in the field: start, run until told to stop, drain. And the name it has when nobody gave it one."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from msrt.protocol.address import check_name
from msrt.settings import NodeConfig
from msrt.telemetry import logs
from msrt.telemetry.looplag import LoopLag
from msrt.telemetry.metrics import Metrics
from msrt.world.world import World

__all__ = ["FieldNode", "default_name", "live", "tell"]

TROUBLES: Final = 10
TROUBLE: Final = 400
"""Last warnings that a node tells of itself, and the characters of each."""
PAGE = os.sysconf("SC_PAGE_SIZE")
GC_THRESHOLDS: Final = (10_000, 20, 20)
"""CPython's 700 live objects more are nothing to 64 requests in flight: it searched the whole heap every second."""


class FieldNode(Protocol):
    """What every tier's node is."""

    ready: asyncio.Event

    async def run(self) -> None:
        """Until cancelled or closed."""

    def close(self) -> None:
        """Say goodbye; `run` returns."""


def default_name(given: str, node: str) -> str:
    """The name of a node: as given, else the host's and a short id. Raises InvalidAddress."""
    if given:
        return check_name(given)
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-") or "node"
    return check_name(f"{host[:40]}-{node[:6]}")


async def live(
    node: FieldNode, stop: asyncio.Event, world: World, metrics: Metrics, started: Callable[[], None]
) -> None:
    """Run a node; `started` is called once it is ready. Raises what ends it."""
    lag = LoopLag(world.now, metrics.loop_lag.observe)
    metrics.watch("loop_lag_p999_seconds", "99.9th percentile of recent loop lag.", lambda: lag.quantile(0.999))
    watching = asyncio.ensure_future(lag.watch())
    running = asyncio.ensure_future(node.run())
    waiting = asyncio.ensure_future(node.ready.wait())
    told = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, waiting, told}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and not running.done():
            started()
            _spare_the_collector()
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
        node.close()
        await running
    finally:
        for task in (watching, waiting, told, running):
            task.cancel()


def _spare_the_collector() -> None:
    """Keep what start-up made (modules, mostly) out of every later search for cycles: one took 40 ms of the loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def tell(state: Path, config: NodeConfig) -> Callable[[str], Any]:
    """Answers `logs`, `logged` (how many, in which run) and `diagnose` of this process."""
    began = _machine_up_s()

    def answer(what: str) -> Any:
        if what == "logs":
            return [" ".join(f"{key}={value}" for key, value in line.items()) for line in logs.recent()]
        if what == "logged":
            return logs.logged(), f"{os.getpid()}/{began}"
        disk, memory = os.statvfs(state), _meminfo()
        return {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "memory_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
            "disk_bytes": disk.f_blocks * disk.f_frsize,
            "machine_memory_bytes": memory.get("MemTotal", 0),
            "machine_memory_free_bytes": memory.get("MemAvailable", 0),
            "machine_up_s": round(_machine_up_s()),
            "up_s": round(_machine_up_s() - began),
            "machine_load": round(os.getloadavg()[0], 2),
            "state": str(state),
            "log_level": config.log_level,
            "last_errors": _troubles(),
        }

    return answer


def _machine_up_s() -> float:
    """Seconds since the machine was started, its sleep included: a clock that nobody sets."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 2)


def _meminfo() -> dict[str, int]:
    """The machine's memory in bytes, by the kernel's names."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) == 3}


def _troubles() -> list[str]:
    """The last warnings and errors of the log."""
    bad = [line for line in logs.recent() if line.get("level") in {"warning", "error", "critical"}]
    return [" ".join(f"{key}={value}" for key, value in line.items())[:TROUBLE] for line in bad[-TROUBLES:]]
