"""An example's job in this process, as `msrt train simulate` runs it; several of them in one process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from msrt.training.bundle import pack
from msrt.training.local import Local, load_task
from msrt.training.settings import JobConfig
from msrt.training.simulation import Chances, Shape, Simulation
from msrt.training.task import Task

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data"))
CALM = Chances()


def needs(folder: str) -> pytest.MarkDecorator:
    """The test is skipped, and says so, where that data is not."""
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"MSRT_DATA has no {folder}")


def task_of(example: str, **options: Any) -> tuple[Task, JobConfig]:
    """The task and its settings, `options` on top of those of the example. Modules of other examples are forgotten:
    all of them have a `task`."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(EXAMPLES):
            del sys.modules[name]
    config = pack(EXAMPLES / example).config
    config = msgspec.structs.replace(config, options=config.options | options)
    return load_task(config.task, EXAMPLES / example, config.options), config


def simulation(
    example: str, nodes: int, *, regions: int = 1, chances: Chances = CALM, options: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None, pace: dict[str, Any] | None = None, **settings: Any,
) -> Simulation:  # fmt: skip
    """The example with these settings instead of its own."""
    torch.set_num_threads(1)
    task, config = task_of(example, **(options or {}))
    tables = {name: getattr(config, name) for name in ("train", "pace")}
    given = {"train": train or {}, "pace": pace or {}}
    settings |= {name: msgspec.structs.replace(table, **given[name]) for name, table in tables.items()}
    config = msgspec.structs.replace(config, **settings)
    shape = Shape((regions,), nodes)
    return Simulation(Local(task, config), shape, time.monotonic, time.time, str(DATA), chances)
