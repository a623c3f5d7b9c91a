"""How much an artifact store holds, what may go, and in which order."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog

from msrt.errors import DiskFull

__all__ = ["Room"]

log = structlog.get_logger()


class Room:
    """Sizes by digest, least recently used first; at most `bound` bytes together.

    A bound of 0 is an origin's: nobody has what it holds, so nothing goes, and a full disk is only reported.
    `delete` takes a blob from the disk.
    """

    def __init__(
        self, sizes: Iterable[tuple[str, int]], bound: int, delete: Callable[[str], Awaitable[object]]
    ) -> None:
        self.sizes: OrderedDict[str, int] = OrderedDict(sizes)
        self.bound = bound
        self.evicted = 0
        self._delete = delete
        self._pins: dict[str, frozenset[str]] = {}
        self._using: Counter[str] = Counter()
        self._reserved = 0

    @property
    def used(self) -> int:
        """Bytes held."""
        return sum(self.sizes.values())

    def pin(self, digests: Iterable[str], owner: str) -> None:
        self._pins[owner] = frozenset(digests)

    def touch(self, digest: str) -> None:
        """It was used just now."""
        if digest in self.sizes:
            self.sizes.move_to_end(digest)

    def add(self, digest: str, size: int) -> None:
        """It is on disk, whole."""
        self.sizes[digest] = size
        self.sizes.move_to_end(digest)

    @contextmanager
    def using(self, digest: str) -> Iterator[None]:
        """It may not go meanwhile."""
        self._using[digest] += 1
        try:
            yield
        finally:
            self._using[digest] -= 1
            if not self._using[digest]:
                del self._using[digest]

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Bytes that are on their way."""
        self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size

    async def make(self, size: int) -> None:
        """Make room for so many bytes more. Raises DiskFull when only pinned ones and those in use are left."""
        excess = self.used + self._reserved + size - self.bound if self.bound else 0
        if excess > 0 and await self.evict(excess) < excess:
            raise DiskFull(
                f"{size} more bytes of artifacts do not fit beside those in use (bound {self.bound})",
                hint="raise the bound of the cache in the config",
            )

    async def settle(self, digest: str) -> None:
        """An artifact whose size nobody knew is here: make room after the fact, or let it go again (DiskFull)."""
        try:
            with self.using(digest):
                await self.make(0)
        except DiskFull:
            self.sizes.pop(digest, None)
            await self._delete(digest)
            raise

    async def evict(self, excess: int) -> int:
        """Let the least recently used go until so many bytes are free; how many are."""
        if not self.bound:
            return 0
        pinned = frozenset().union(*self._pins.values())
        freed = 0
        for digest, size in list(self.sizes.items()):
            if freed >= excess:
                break
            if digest in pinned or digest in self._using or digest not in self.sizes:
                continue
            del self.sizes[digest]
            await self._delete(digest)
            log.info("artifact.evicted", digest=digest, bytes=size)
            self.evicted += 1
            freed += size
        return freed
