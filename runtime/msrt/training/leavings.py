"""What a job that is over leaves on a node's disk: layers of the node's own, and the count of what it gave away."""

from __future__ import annotations

import contextlib
import shutil
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["clear"]

STAYS: Final = ("head-*.f32", "releases")
"""Layers that `train serve` and `train export --node` ask for later, and how often a private node gave an update away:
a cloud that opened the job again would find that as it was."""


def clear(directory: Path, node: str) -> None:
    """Remove sources, weights, rooms and residuals in a job's `directory`, and the checkpoints that `node` wrote for a
    group where others see them. Blocking. What cannot be removed stays.
    """
    if not directory.is_dir():
        return
    shared = _shared(directory)
    if shared:
        shutil.rmtree(Path(shared) / directory.name / node, ignore_errors=True)
        _remove_if_empty(Path(shared) / directory.name)
    stays = {path for pattern in STAYS for path in directory.glob(pattern)}
    for path in set(directory.iterdir()) - stays:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    _remove_if_empty(directory)


def _shared(directory: Path) -> str:
    """[cluster] shared of the job, empty where there is none."""
    try:
        found = tomllib.loads((directory / "sources" / "job.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    cluster = found.get("cluster")
    return str(cluster.get("shared", "")) if isinstance(cluster, dict) else ""


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # it is not, or another node was quicker
        directory.rmdir()
