"""Artifacts that nothing names any longer: what removed jobs left, what was uploaded and never used, what a process
that died put down before the journal could name it. They go after a grace period; the cloud evicts nothing else.

`judge` decides, pure. What is pinned, lent or being read is in use, whoever names it; whoever puts it down again, or
reads it, has its time begin anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.images import read_image
from msrt.inference.bundle import Manifest
from msrt.journal.state import State
from msrt.protocol import wire
from msrt.world.world import World

__all__ = ["Orphan", "Orphans", "judge", "named"]

log = structlog.get_logger()
LOOKS: Final = 8
"""In each grace period."""
LONGEST_S: Final = 3600.0
"""Between two looks."""


class Orphan(msgspec.Struct, frozen=True):
    """One that nothing named when it was last looked at."""

    since: float
    """Seconds since 1970."""
    uses: int = 0
    """How often it had been used by this process: counted anew after a restart."""


def judge(
    held: Mapping[str, int], names: Collection[str], known: Mapping[str, Orphan], wall: float, grace_s: float
) -> tuple[list[str], dict[str, Orphan]]:
    """(what may go, all that nothing names). `held`: digest to its uses. A clock that was put back gives more time."""
    orphans = {}
    for digest, uses in held.items():
        if digest in names:
            continue
        before = known.get(digest)
        fresh = before is None or uses != before.uses
        orphans[digest] = Orphan(wall if fresh or before is None else min(before.since, wall), uses)
    return [digest for digest, one in orphans.items() if wall - one.since >= grace_s], orphans


def named(state: State) -> Iterator[str]:
    """Digests in the journal: of jobs, of models, of images."""
    for job in state.jobs.values():
        yield from (job.created.bundle, job.created.start)
        fact = job.advanced
        if fact is not None:
            yield from (fact.weights, fact.served, fact.memory, fact.counted, *fact.older)
            for change in fact.chain:
                yield from (change.base, change.delta)
    for versions in state.models.values():
        for pushed in versions.values():
            manifest = wire.unpack(pushed.manifest, Manifest)
            files = (*manifest.variants.values(), manifest.pre, manifest.post)
            yield from (file.digest for file in files if file is not None)
    for by_class in state.images.values():
        for image in map(read_image, (pushed.image for pushed in by_class.values())):
            yield from (image.digest, image.index)


class Orphans:
    """Of one cloud. `names`: whatever is named, the journal among it. `grace_s` 0: nothing ever goes."""

    def __init__(
        self, world: World, artifacts: ArtifactStore, names: Callable[[], Awaitable[Iterable[str]]], grace_s: float
    ) -> None:
        self._world, self._artifacts, self._names, self._grace_s = world, artifacts, names, grace_s
        self._store = world.disk.store("orphans")
        self._known = {key: Orphan(msgspec.json.decode(value, type=float)) for key, value in self._store.scan()}
        self.swept = 0

    async def run(self) -> None:
        """Until cancelled."""
        while self._grace_s:
            await asyncio.sleep(min(self._grace_s / LOOKS, LONGEST_S))
            try:
                await self.look()
            except errors.MsrtError as error:
                log.warning("artifact.not_swept", error=errors.words_of(error))

    async def look(self) -> None:
        """Let go what may go. A death on the way leaves the rest for the next look. Raises DiskFull, Corrupt."""
        room = self._artifacts.room
        names = frozenset(await self._names())
        held = {digest: room.uses(digest) for digest in self._artifacts.digests()}
        due, orphans = judge(held, names, self._known, self._world.wall(), self._grace_s)
        for digest in due:
            if room.uses(digest) != orphans[digest].uses or room.needed(digest):
                continue  # somebody came for it meanwhile, or is at it: it may be named in a moment
            size = self._artifacts.size(digest)
            await self._artifacts.drop(digest)
            del orphans[digest]
            self.swept += 1
            log.info("artifact.swept", digest=digest, bytes=size)
        await self._remember(orphans)

    async def _remember(self, orphans: dict[str, Orphan]) -> None:
        for digest in self._known.keys() | orphans.keys():
            before, now = self._known.get(digest), orphans.get(digest)
            if now is None or before is None or before.since != now.since:
                self._store.put(digest, None if now is None else msgspec.json.encode(now.since))
        self._known = orphans
        await self._world.offload(self._store.commit)
