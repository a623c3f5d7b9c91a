"""How much an artifact store holds, what may go, and in which order."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog

__all__ = ["Room"]

log = structlog.get_logger()


class Room:
    """Sizes by digest, least recently used first; at most `bound` bytes beyond those pinned and in use.

    No bound is an origin's: nobody else has what it holds, so nothing goes, and a full disk is only reported.
    `delete` takes a blob from the disk.
    """

    def __init__(
        self, sizes: Iterable[tuple[str, int]], bound: int | None, delete: Callable[[str], Awaitable[object]]
    ) -> None:
        self.sizes: OrderedDict[str, int] = OrderedDict(sizes)
        self.bound = bound
        self.evicted = 0
        self._delete = delete
        self._pins: dict[str, frozenset[str]] = {}
        self._using: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()

    @property
    def used(self) -> int:
        """Bytes held."""
        return sum(self.sizes.values())

    @property
    def spare(self) -> int:
        """Bytes held that nobody needs now: what the bound is of."""
        needed = self._needed()
        return sum(size for digest, size in self.sizes.items() if digest not in needed)

    def _needed(self) -> set[str]:
        return set(self._using).union(*self._pins.values())

    def needed(self, digest: str) -> bool:
        """Pinned, or in use."""
        return digest in self._using or any(digest in pins for pins in self._pins.values())

    def uses(self, digest: str) -> int:
        """How often it came, or was used, since this process began."""
        return self._uses[digest]

    def pin(self, digests: Iterable[str], owner: str) -> None:
        self._pins[owner] = frozenset(digests)

    def free(self, digest: str) -> bool:
        """Is it here, and needed by nobody?"""
        return digest in self.sizes and digest not in self._needed()

    def touch(self, digest: str) -> None:
        """It was used just now."""
        if digest in self.sizes:
            self.sizes.move_to_end(digest)
            self._uses[digest] += 1

    def add(self, digest: str, size: int) -> None:
        """It is on disk, whole."""
        self.sizes[digest] = size
        self.touch(digest)

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

    async def make(self, digest: str, size: int) -> None:
        """Make room for one that comes: unless it is needed itself, it is one of the spare ones soon."""
        if self.bound is not None and digest not in self._needed():
            await self.evict(self.spare + size - self.bound)

    async def trim(self, fresh: str = "") -> None:
        """Let go of what is beyond the bound, but not of one that has just come: somebody is about to read it."""
        if self.bound is not None:
            await self.evict(self.spare - self.bound, fresh)

    async def drop(self, digest: str) -> None:
        """Let this one go, unless it is needed."""
        if digest in self.sizes and not self.needed(digest):
            del self.sizes[digest]
            await self._delete(digest)

    async def evict(self, excess: int, fresh: str = "") -> int:
        """Let the least recently used go until so many bytes are free; how many are."""
        if self.bound is None or excess <= 0:
            return 0
        freed = 0
        for digest, size in list(self.sizes.items()):
            if freed >= excess:
                break
            if digest == fresh or digest in self._needed() or digest not in self.sizes:
                continue
            del self.sizes[digest]
            await self._delete(digest)
            log.info("artifact.evicted", digest=digest, bytes=size)
            self.evicted += 1
            freed += size
        return freed
