"""Files of artifacts that were dropped, for the next ones of their size: to write over what a file holds takes a tenth
of the time that fresh pages take, and a disk that has the blocks already syncs sooner.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["LARGE", "Spares"]

LARGE: Final = 1 << 20
"""Bytes from which on a file is worth it."""
MOST: Final = 3
"""What a round of a job leaves: weights, what nodes have of them, and the change."""


class Spares:
    """Digests and sizes, oldest first. They are on the disk and of no store any more."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def add(self, digest: str, size: int) -> str:
        """One more; the digest that has to go for it, which may be its own."""
        if size < LARGE:
            return digest
        self._sizes[digest] = size
        return self._sizes.popitem(last=False)[0] if len(self._sizes) > MOST else ""

    def take(self, size: int) -> str:
        """One of that size, or the last one that came where the size is not known (-1); nothing if there is none."""
        fitting = [digest for digest, held in reversed(self._sizes.items()) if size in (held, -1)]
        if not fitting:
            return ""
        del self._sizes[fitting[0]]
        return fitting[0]

    def forget(self, digest: str) -> None:
        """There is a new one of that name."""
        self._sizes.pop(digest, None)

    def clear(self) -> list[str]:
        """All there were."""
        gone = list(self._sizes)
        self._sizes.clear()
        return gone
