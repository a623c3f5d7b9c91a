"""What a source is, and how one is made from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib.metadata import entry_points
from typing import Any

import msgspec
import numpy as np

from msrt import errors
from msrt.settings import SourceConfig
from msrt.world.world import World

__all__ = ["Reading", "Source", "open_source", "parse_line"]

Reading = np.ndarray[Any, Any]
"""One reading: numbers in any shape that the model's first input can take."""
Source = AsyncIterator[Reading]


def open_source(world: World, config: SourceConfig, skip: int = 0) -> Source:
    """Make a source; `skip` readings were already turned into events in an earlier life (replay continues there).

    Raises InvalidConfig for an unknown kind or a setting that the kind needs.
    """
    found = {point.name: point for point in entry_points(group="msrt.sources")}
    point = found.get(config.kind)
    if point is None:
        raise errors.InvalidConfig(
            f"source {config.name!r} has the unknown kind {config.kind!r}",
            hint=f"known are: {', '.join(sorted(found))}",
        )
    make: Callable[[World, SourceConfig, int], Source] = point.load()
    return make(world, config, skip)


def parse_line(line: bytes, source: str) -> Reading:
    """One reading from text: a JSON array (nested or flat), or numbers apart by commas or spaces.

    Raises InvalidTensor naming the source and the text.
    """
    text = line.strip()
    try:
        values = (
            msgspec.json.decode(text) if text.startswith(b"[") else [float(v) for v in text.replace(b",", b" ").split()]
        )
        reading = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise errors.InvalidTensor(f"source {source}: {text[:60]!r} is no reading ({error})") from None
    if reading.size == 0:
        raise errors.InvalidTensor(f"source {source}: an empty line is no reading")
    return reading
