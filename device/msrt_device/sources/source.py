"""What a source is, and how one is made from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib.metadata import entry_points
from typing import Any

import msgspec
import numpy as np

from msrt import errors
from msrt.world.world import World

__all__ = ["Reading", "Source", "SourceConfig", "open_source", "parse_line"]

Reading = np.ndarray[Any, Any]
"""One reading: numbers in any shape that the model's first input can take."""
Source = AsyncIterator[Reading]


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[source]]` of a device's config."""

    name: str
    model: str
    """Which of the models placed on this device reads it."""
    kind: str
    """replay, command, mqtt, or the name of an entry point in the group msrt.sources."""
    path: str = ""
    """replay: a .npy, .csv or .jsonl file, or a directory of .npy and raw .bin files, read in name order."""
    command: tuple[str, ...] = ()
    """command: program and arguments; each line of its output is one reading (JSON array, or numbers)."""
    topic: str = ""
    """mqtt: topic filter; each payload is one reading."""
    url: str = ""
    """mqtt: the broker, mqtt://HOST:PORT."""
    interval_s: float = 0.0
    """Least time between two readings, seconds."""
    loop: bool = False
    """replay: begin again at the end."""
    dtype: str = "float32"
    """Of raw .bin files."""
    min_score: float = 0.0
    """Post an event only when the best score reaches this."""
    on_change: bool = False
    """Post an event only when the label differs from the last one."""
    options: dict[str, Any] = {}
    """Passed to a plug-in."""


def open_source(world: World, config: SourceConfig, skip: int = 0) -> Source:
    """Make a source; `skip` readings were already turned into events in an earlier life (replay continues there).

    Raises InvalidConfig for an unknown kind or a setting that the kind needs.
    """
    found = {point.name: point for point in entry_points(group="msrt.sources")}
    point = found.get(config.kind)
    if point is None:
        raise errors.InvalidConfig(
            f"source {config.name!r} has the unknown kind {config.kind!r}", hint=f"known are: {', '.join(sorted(found))}"
        )
    make: Callable[[World, SourceConfig, int], Source] = point.load()
    return make(world, config, skip)


def parse_line(line: bytes, source: str) -> Reading:
    """One reading from text: a JSON array (nested or flat), or numbers apart by commas or spaces.

    Raises InvalidTensor naming the source and the text.
    """
    text = line.strip()
    try:
        values = msgspec.json.decode(text) if text.startswith(b"[") else [float(v) for v in text.replace(b",", b" ").split()]
        reading = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise errors.InvalidTensor(f"source {source}: {text[:60]!r} is no reading ({error})") from None
    if reading.size == 0:
        raise errors.InvalidTensor(f"source {source}: an empty line is no reading")
    return reading
