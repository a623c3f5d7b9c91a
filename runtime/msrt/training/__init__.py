"""A user's training code: what it looks like, how it travels, and the process it runs in.

task     msrt.Task and Node, what a user writes against
bundle   a directory with job.toml as one deterministic zip, and its settings
local    the numerics of one node: train, evaluate, export, baselines; the only file that imports torch
pipe     what crosses the pipes between host and runner
runner   the process of its own: limits, clean environment, low priority
host     the asyncio shell that starts, asks, pauses and kills it
"""

from __future__ import annotations

from msrt.training.bundle import JobConfig
from msrt.training.task import Node, Task

__all__ = ["JobConfig", "Node", "Task"]
