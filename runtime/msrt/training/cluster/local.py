"""A Local whose rounds are trained by a group of processes; judging, export and baselines stay in this one."""

from __future__ import annotations

import atexit
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msrt.learning import vector
from msrt.learning.vector import Vector
from msrt.training.cluster.group import Group
from msrt.training.cluster.messages import DoRound
from msrt.training.local import Local
from msrt.training.settings import JobConfig
from msrt.training.shelf import Keeper
from msrt.training.task import Node, Task

__all__ = ["ClusterLocal"]


class ClusterLocal(Local):
    """What the runner holds where job.toml has [cluster]. `work`: the job's directory on this node."""

    def __init__(self, task: Task, config: JobConfig, now: Callable[[], float], sources: Path, directory: Path) -> None:
        super().__init__(task, config, now)
        self.group = Group(sources, directory / "cluster")
        atexit.register(self.group.close)

    def train(
        self,
        weights: Vector,
        node: Node,
        round_: int,
        *,
        work: float = 1.0,
        within: float = 0.0,
        keeper: Keeper | None = None,  # noqa: ARG002 - a group keeps nothing to itself: see the combinations
        counted: int | None = None,  # noqa: ARG002
    ) -> tuple[Vector, int, dict[str, float]]:
        """(delta of the weights, samples, metrics), as one process has them; with the group's `processes`, `batch`,
        `step_ms` and `restarts`. Raises InvalidJob, JobFailed.
        """
        soonest = min((limit for limit in (within, self.config.train.within_s) if limit), default=0.0)
        until = self.now() + soonest if soonest else 0.0
        self.group.start()
        _, metrics = self.evaluate(weights, [node])
        given, result = (self.group.directory / name for name in ("given", "result"))
        given.write_bytes(vector.save(self.layout, weights))
        before = max(1, self.group.connections)
        key = f"{zlib.crc32(weights.data):08x}"
        done = self.group.ask(DoRound(round_, node, str(given), str(result), key, work, until))
        metrics |= done.metrics | {"restarts": float(max(0, self.group.connections - before))}
        return np.fromfile(result, np.float32) - weights, done.samples, metrics
