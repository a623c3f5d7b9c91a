"""What a simulation cannot show is refused: a number that a tree would not give is worse than none."""

from __future__ import annotations

from typing import Final

import msgspec

from msrt.errors import InvalidJob
from msrt.training.settings import JobConfig

__all__ = ["check_config"]

KNOWN: Final = {
    "": {
        "name", "task", "rounds", "deadline_s", "quorum", "min_nodes", "max_nodes", "max_samples", "select",
        "compression", "seed", "aggregate", "checkpoints", "train", "server", "pace", "limits", "baseline", "publish",
        "trigger", "options", "sampling", "privacy",
    },
    "train": {
        "epochs", "batch", "lr", "decay", "momentum", "weight_decay", "clip", "algorithm", "proximal", "keep_local",
    },
    "aggregate": {"clip", "rule", "tier"},
    "pace": {"deviations", "late", "staleness", "discount", "steps", "partial"},
}  # fmt: skip
"""Settings by table that are simulated, or that say nothing where there is no time and no fleet."""


def check_config(config: JobConfig, nodes: int) -> None:
    """Raises InvalidJob for a setting that is not simulated, and for a job that would wait for ever."""
    for table, known in KNOWN.items():
        settings = getattr(config, table) if table else config
        for field in msgspec.structs.fields(settings):
            if field.name not in known and getattr(settings, field.name) != _default(field):
                where = f"[{table}] {field.name}" if table else field.name
                raise InvalidJob(f"{where} is not simulated", hint="leave it out, or use a tree: msrt train run")
    if config.least_nodes > nodes:
        raise InvalidJob(f"the job waits for {config.least_nodes} nodes, there are {nodes}", hint="give more --nodes")


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
