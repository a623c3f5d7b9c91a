"""Where a device's updates lie until they are counted: small ones beside their meta, files of its trainer as files.

A file is named by its update and vouched for by a quick checksum: its bytes are asked for by nobody but this device,
and hashing 40 MB takes as long as encrypting them. Nothing is synced: what a power failure took is trained again.
Files are used again, for the pages that they have.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.buffers import Buffer, read_file
from msrt.hop.halves import Reader
from msrt.protocol.checksum import quick
from msrt.protocol.messages import UpdateMeta
from msrt.world.files import disk_error
from msrt.world.world import World, by_size
from msrt_device.kept import Kept, key_of, length_of, sha256

__all__ = ["Updates"]

log = structlog.get_logger()
INLINE: Final = 64 << 10
"""Bytes of an update that lies beside its meta."""


class Updates:
    """`kept`: those that an earlier process left; files of others go."""

    def __init__(self, world: World, artifacts: ArtifactStore, kept: Iterable[Kept]) -> None:
        self._offload, self._artifacts = world.offload, artifacts
        self._folder = world.disk.path / "updates" if world.disk.path is not None else None
        self._sound = set[str]()
        """Files that this process has seen whole."""
        self._lent: set[str] = set()
        """Names of files that somebody reads."""
        self._homes: dict[str, Path] = {}
        """By job: where its trainer writes them."""
        if self._folder is not None and self._folder.is_dir():
            names = {one.file for one in kept}
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink()

    async def keep(self, meta: UpdateMeta, payload: Buffer | Path) -> Kept:
        """On disk, but for its record. Raises OSError for a file that is not there."""
        if length_of(payload) > INLINE:
            try:
                if not isinstance(payload, Path):
                    return Kept(meta, b"", await self._artifacts.put_bytes(payload, sync=False), len(payload))
                taken: Kept = await self._offload(self._take, meta, payload)
            except errors.DiskFull as error:
                log.warning("training.update_not_on_disk", error=error.text)
            else:
                self._sound.add(taken.file)
                return taken
        data = await self._offload(read_file, payload) if isinstance(payload, Path) else payload
        return Kept(meta, bytes(data))

    def _take(self, meta: UpdateMeta, path: Path) -> Kept:
        assert self._folder is not None
        name = key_of(meta.job, meta.round, meta.step).replace("/", "_")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            view = _mapped(path)
            path.rename(self._folder / name)
        except OSError as error:
            raise disk_error(error, path) from error
        self._homes[meta.job] = path
        return Kept(meta, b"", "", len(view), file=name, checksum=quick(view))

    @asynccontextmanager
    async def lent(self, kept: Kept, *, quickly: bool) -> AsyncIterator[tuple[Reader | Buffer, int, str]]:
        """(what `Peer.push` reads, its size, its digest), or a checksum where the edge takes one. Raises NotFound,
        Corrupt.
        """
        if kept.file:
            view = await self._offload(self._open, kept)
            self._lent.add(kept.file)
            try:
                yield view, kept.size, kept.checksum if quickly else await self._offload(sha256, view)
            finally:
                self._lent.discard(kept.file)
        elif kept.digest:
            async with self._artifacts.lend(kept.digest) as lent:
                yield lent.read, kept.size, kept.digest
        else:
            size = len(kept.payload)
            yield kept.payload, size, await by_size(self._offload, size, sha256, kept.payload)

    def _open(self, kept: Kept) -> memoryview:
        assert self._folder is not None
        try:
            view = _mapped(self._folder / kept.file)
        except (FileNotFoundError, ValueError):  # no file, or an empty one
            raise errors.NotFound(f"the update {kept.file} is not here") from None
        if kept.file not in self._sound:
            if (len(view), quick(view)) != (kept.size, kept.checksum):
                raise errors.Corrupt(f"the update {kept.file} is damaged on disk")
            self._sound.add(kept.file)
        return view

    async def drop(self, gone: Collection[Kept]) -> None:
        """They were counted, or never will be. At once: pages that are free again soon never reach the disk. One file
        goes back to where it was made, and the next update is written over it; none of which is still on its way.
        """
        await self._artifacts.drop(*(one.digest for one in gone if one.digest))
        homes = [None if one.file in self._lent else self._homes.get(one.meta.job) for one in gone]
        files = [(one.file, home) for one, home in zip(gone, homes, strict=True) if one.file]
        if files:
            self._sound.difference_update(name for name, _ in files)
            await self._offload(self._let_go, files)

    def _let_go(self, files: list[tuple[str, Path | None]]) -> None:
        assert self._folder is not None
        for name, home in files:
            path = self._folder / name
            with contextlib.suppress(OSError):  # the next one is being made there, or this file system has no links
                if home is not None:
                    home.hardlink_to(path)
            path.unlink(missing_ok=True)

    async def over(self, job: str) -> None:
        """No other update of it is made here."""
        home = self._homes.pop(job, None)
        if home is not None:
            await self._offload(partial(home.unlink, missing_ok=True))


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
