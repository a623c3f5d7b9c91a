"""Replays recorded readings from a file or a directory, where it left off after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from msrt import errors
from msrt.settings import SourceConfig
from msrt.world.world import World
from msrt_device.sources.source import Reading, Source, parse_line

__all__ = ["replay"]


def _readings(config: SourceConfig) -> Iterator[Reading]:
    path = Path(config.path)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix == ".npy":
                yield np.load(file, allow_pickle=False)
            elif file.suffix == ".bin":
                yield np.fromfile(file, dtype=config.dtype)
    elif path.suffix == ".npy":
        yield from np.load(path, mmap_mode="r", allow_pickle=False)
    elif path.suffix in (".csv", ".jsonl", ".txt"):
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield parse_line(line, config.name)
    else:
        raise errors.InvalidConfig(
            f"source {config.name!r} cannot read {path}", hint="give a directory, or a .npy, .csv or .jsonl file"
        )


async def replay(world: World, config: SourceConfig, skip: int) -> Source:
    """Yield each recorded reading; ends unless `loop` is set."""
    if not await world.offload(Path(config.path).exists):
        raise errors.InvalidConfig(f"source {config.name!r}: {config.path} does not exist")
    while True:
        count = 0
        for reading in _readings(config):
            count += 1
            if skip > 0:
                skip -= 1
                continue
            yield reading
            await asyncio.sleep(config.interval_s)
        if not config.loop or count == 0:
            return
