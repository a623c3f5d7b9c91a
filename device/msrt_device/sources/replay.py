"""Replays recorded readings from a file or a directory, where it left off after a restart."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import structlog

from msrt import errors
from msrt.settings import SourceConfig
from msrt.world.world import World
from msrt_device.sources.source import Reading, Source, parse_line

__all__ = ["replay"]

log = structlog.get_logger()


def _readings(config: SourceConfig) -> Iterator[Reading]:
    """Every good one, in order; what is no reading is left out, so that it keeps nobody from the next."""
    path = Path(config.path)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix in (".npy", ".bin"):
                with _left_out(config.name, file.name):
                    yield _read(file, config.dtype)
    elif path.suffix == ".npy":
        yield from np.load(path, mmap_mode="r", allow_pickle=False)
    elif path.suffix in (".csv", ".jsonl", ".txt"):
        with path.open("rb") as lines:
            for line in filter(bytes.strip, lines):
                with _left_out(config.name, path.name):
                    yield parse_line(line, config.name)
    else:
        raise errors.InvalidConfig(
            f"source {config.name!r} cannot read {path}", hint="give a directory, or a .npy, .csv or .jsonl file"
        )


def _read(file: Path, dtype: str) -> Reading:
    """One file as one reading. Raises InvalidTensor."""
    try:
        with file.open("rb") as opened:
            found = np.fromfile(opened, dtype) if file.suffix == ".bin" else np.load(opened, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise errors.InvalidTensor(f"{file.name} cannot be read: {error}") from None
    if not isinstance(found, np.ndarray):
        raise errors.InvalidTensor(f"{file.name} is an archive of arrays, not one")
    return found


@contextmanager
def _left_out(source: str, file: str) -> Iterator[None]:
    try:
        yield
    except errors.InvalidTensor as error:
        log.warning("source.bad_reading", source=source, file=file, error=error.text)


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
