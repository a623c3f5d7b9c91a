"""A user's training code: what it looks like, how it travels, and the process it runs in.

task     msrt.Task and Node, what a user writes against
settings job.toml as frozen structs, a table each
bundle   a directory with job.toml as one deterministic zip
local    the numerics of one node: train, evaluate, export, baselines; imports torch
cluster  the same by a group of processes on torch.distributed
limits   what a job's process may take
pipe     what crosses the pipes between host and runner
runner   the process of its own: limits, clean environment, low priority
zygote   a process with torch loaded that is forked into runners; forks is its asyncio shell
host     the asyncio shell that starts, asks, pauses and kills it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msrt.public import on_use

if TYPE_CHECKING:
    from msrt.training.settings import JobConfig
    from msrt.training.task import Node, Task

__all__ = ["JobConfig", "Node", "Task"]

__getattr__ = on_use(__name__, {"JobConfig": "settings", "Node": "task", "Task": "task"})
