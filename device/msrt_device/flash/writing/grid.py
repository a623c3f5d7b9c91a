"""Where an image is cut: its head, and chunks of 4 MiB after it. What packs, hashes and writes keeps to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["CHUNK", "HEAD", "cut"]

CHUNK: Final = 4 << 20
HEAD: Final = 1 << 20
"""The beginning of an image: partition table, boot sectors, first-stage loaders. A chunk never reaches over its end."""


def cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each piece: pieces begin at HEAD plus a multiple of CHUNK, or at HEAD's beginning."""
    while start < end:
        stop = HEAD if start < HEAD else HEAD + ((start - HEAD) // CHUNK + 1) * CHUNK
        yield start, min(stop, end) - start
        start = min(stop, end)
