"""What a shell may ask of the machine it runs on. Field and simulation give the same things."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - the type of World.random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from msrt.buffers import Buffer
from msrt.links.link import Credentials, Link

T = TypeVar("T")
FEW: Final = 64 << 10
"""Bytes that are hashed, checked or added sooner than a thread takes the work over."""
UNCOUNTED: Final = 1 << 62
"""For `by_size`, of what waits for the disk as well."""


async def by_size(offload: Callable[..., Awaitable[Any]], size: int, work: Callable[..., Any], *args: Any) -> Any:
    """Work that goes through so many bytes: off the loop, or at once where they are few."""
    return work(*args) if size <= FEW else await offload(work, *args)


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """Its result. It goes on to its end where who waits is cancelled: a thread does not stop half-way, and what it
    changes is nobody else's before.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


class Store(Protocol):
    """Small durable state: append-only logs and a key-value table, made durable together by `commit`.

    `append` and `put` touch memory only and are seen by `read` and `scan` at once; after a crash only what was
    committed is there.
    """

    def append(self, log: str, record: bytes) -> int:
        """Add a record; returns its offset (1, 2, 3 ... per log, never used again, even after `trim`)."""

    def put(self, key: str, value: bytes | None) -> None:
        """Set a key, or delete it with None."""

    def commit(self) -> None:
        """Make everything before it durable (fsync). Blocking: call through `World.offload`. Raises DiskFull, and
        then nothing since the last commit is durable and a later commit tries again."""

    def read(self, log: str, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, bytes]]:
        """Records of a log with offset > after, in order."""

    def scan(self, prefix: str = "") -> Sequence[tuple[str, bytes]]:
        """Key-value pairs whose key begins with prefix, in key order."""

    def trim(self, log: str, upto: int) -> None:
        """Forget records with offset <= upto at the next commit; their space is used again."""


Check: TypeAlias = Callable[[memoryview], None]


class Blobs(Protocol):
    """Content-addressed bytes by SHA-256 hex. A partial blob survives a restart. Blocking: use `World.offload`."""

    def size(self, digest: str) -> int | None:
        """Bytes of a whole blob, None if it is not here."""

    def partial(self, digest: str) -> int:
        """Bytes already written of an unfinished blob."""

    def write(self, digest: str, offset: int, data: bytes | memoryview, *, vouched: bool = False) -> None:
        """Write a piece of an unfinished blob. Raises DiskFull."""

    def finish(self, digest: str, *, sync: bool = True, vouched: bool = False, check: Check | None = None) -> None:
        """Verify and publish (fsync, rename). Raises Corrupt and forgets the partial when the digest differs.

        Without `sync` a power failure may tear it: for what can be had again, and is verified when it is read.
        `vouched`, here and where it is written: the caller has hashed these very bytes, they need not be hashed again.
        `check`: judges all the bytes in place of their digest, and raises Corrupt.
        """

    def read(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a whole blob. Raises NotFound. Does not verify; see msrt.artifacts."""

    def delete(self, digest: str) -> None:
        """Forget a blob, whole or partial."""


class Scratch(Protocol):
    """Room on the disk for what need not survive the process. Blocking: use `World.offload`."""

    def put(self, key: str, data: Buffer) -> memoryview:
        """Keep a copy; the same bytes as they lie there, to be read only. Raises DiskFull."""

    def free(self, key: str) -> None:
        """Nobody looks at it any more."""

    def release(self) -> None:
        """What was read may leave memory; it is read again where it is looked at again."""

    def close(self) -> None:
        """Forget everything."""


Spans: TypeAlias = Iterator[tuple[int, memoryview]]


class Disk(Protocol):
    """A node's state directory."""

    path: Path | None
    """Where it is in the file system; None in simulation."""

    def store(self, name: str) -> Store: ...

    def blobs(self) -> Blobs: ...

    def free_bytes(self) -> int | None:
        """What it could still take; None: nobody knows. Blocking."""

    def digests(self) -> Iterator[tuple[str, int]]:
        """Whole blobs and their sizes."""

    def file(self, digest: str) -> Path | None:
        """Where a whole blob lies in the file system, to be read only; None in simulation."""

    def adopt(self, path: Path, digest: str, *, sync: bool = True) -> None:
        """Make a file of this file system a whole blob: it is moved. The caller vouches for its digest. Blocking."""

    def evolve(self, base: str, digest: str, start: int, span: int, work: Callable[[Spans], None]) -> None:
        """Make one whole blob of another where it lies: `work` goes through (offset, bytes) of each span from `start`
        on and changes them. It vouches for the outcome; what it raises leaves neither blob. Not synced. Blocking.
        """

    def displace(self, base: str, digest: str) -> None:
        """Begin a blob in the place of a whole one, which is gone: what comes is written over its bytes. Blocking."""

    def scratch(self, each: int) -> Scratch:
        """Room for pieces of at most `each` bytes. Blocking. Raises DiskFull."""


class Links(Protocol):
    """Makes links by URL: tcp:// and ipc:// (ZeroMQ), mqtt:// and mqtts://, mem:// (simulation)."""

    def listen(self, url: str, credentials: Credentials, allow: Callable[[bytes], bool]) -> Link:
        """A master's endpoint; `allow` says whether a transport principal may connect at all (revoked ones may not)."""

    def dial(self, url: str, credentials: Credentials) -> Link: ...


@dataclass(frozen=True)
class World:
    """Everything a shell gets from its machine."""

    now: Callable[[], float]
    """Monotonic seconds."""
    wall: Callable[[], float]
    """Seconds since 1970."""
    random: random.Random
    """Seeded in simulation, from the system in the field."""
    disk: Disk
    offload: Callable[..., Awaitable[Any]]
    """await offload(fn, *args): run a blocking call off the loop (inline in simulation)."""
    links: Links
