"""Groups of real processes, ended with their test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.training.cluster.jobs import Job


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Makes jobs."""
    made: list[Job] = []

    def make(more: str = "", train: str = "", **other: Any) -> Job:
        made.append(Job(tmp_path / str(len(made)), more, train, **other))
        return made[-1]

    yield make
    for one in made:
        one.many.group.close()
        sys.path.remove(str(one.sources))
    sys.modules.pop("small", None)
