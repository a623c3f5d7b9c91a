"""A node's life in the field: start, run until told to stop, drain. And the name it has when nobody gave it one."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import socket
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
    """Answers `logs` and `diagnose` of this process."""

    def answer(what: str) -> Any:
        if what == "logs":
            return [" ".join(f"{key}={value}" for key, value in line.items()) for line in logs.recent()]
        disk = os.statvfs(state)
        return {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "memory_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
            "state": str(state),
            "log_level": config.log_level,
        }

    return answer
