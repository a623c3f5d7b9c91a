"""The repository: what the cloud signs for, in files of TUF that floors below check (`msrt.trust.tuf`).

`publish` is one change: the targets files it touches, a snapshot, a timestamp. The new files are artifacts, durable
before the timestamp that leads to them is; a crash between leaves the old state. Files that were replaced stay for a
while: somebody below may be in the middle of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final

import msgspec
import structlog
from tuf.api.metadata import Root, Snapshot, Timestamp

from msrt.artifacts import ArtifactStore
from msrt.errors import Conflict, DiskFull, MsrtError, NotFound, words_of
from msrt.trust.identity import Identity, Purpose
from msrt.trust.tuf.floor import told
from msrt.trust.tuf.names import Kind
from msrt.world.world import World
from msrt_cloud.signing.first import first_files
from msrt_cloud.signing.keys import KeyRing
from msrt_cloud.signing.lists import Lists, Target
from msrt_cloud.signing.offline import Request
from msrt_cloud.signing.periods import Periods
from msrt_cloud.signing.signed import content, decode, file_of

__all__ = ["Repository"]

log = structlog.get_logger()
KEPT: Final = 128
"""Files that were replaced and stay."""
POLL_S: Final = (0.25, 3600.0)
AGAIN_S: Final = 10.0


class Repository:
    """All signed metadata of one cloud. Calls wait for each other."""

    def __init__(
        self, world: World, identity: Identity, artifacts: ArtifactStore, ring: KeyRing, periods: Periods
    ) -> None:
        self._world, self._identity, self._artifacts = world, identity, artifacts
        self.lists = Lists(ring, periods, world.wall)
        self.periods = periods
        self._store = world.disk.store("signing")
        self._turn = asyncio.Lock()
        self.turn = asyncio.Lock()
        """Held by whoever signs for something and then says so in the journal."""
        self._anchor = b""
        self._stamp = 0
        """Version of the timestamp."""
        self._gone: list[str] = []
        """Digests of files that were replaced, oldest first."""

    # --- life --------------------------------------------------------------------------------------------------

    async def open(self, targets: Callable[[], Mapping[str, Target]]) -> None:
        """Load what is on disk; at the first start make keys and a root. `targets`: what the journal names already,
        and is signed for where it is not yet (a tree from before TUF). Raises DiskFull, Corrupt, KeysExposed."""
        self.lists.roots = [data for _, data in self._store.scan("root/")]
        kept = dict(self._store.scan())
        self._anchor = kept.get("anchor", b"")
        self._gone = msgspec.json.decode(kept.get("gone", b"[]"), type=list[str])
        if not self.roots:
            await self._begin()
        else:
            await self._load(kept["timestamp"])
        missing = await self._world.offload(lambda: self.lists.missing(targets()))
        for kind in Kind:  # the key of one may be elsewhere
            mine = {path: target for path, target in missing.items() if path.partition("/")[0] == kind}
            if not mine:
                continue
            try:
                await self.publish(mine)
            except Conflict as error:
                log.warning("signing.not_taken_over", kind=kind.value, targets=len(mine), error=words_of(error))
            else:
                log.info("signing.taken_over", kind=kind.value, targets=len(mine))
        await self.renew()

    async def _begin(self) -> None:
        periods = self.periods
        root, files = await self._world.offload(
            first_files, self.lists.ring, self._world.wall(), periods.root, periods.targets
        )
        self._anchor, self.lists.roots = self._identity.sign(root, Purpose.ROOT), [root]
        log.info("signing.first_root")
        await self._put(await self._world.offload(self.lists.sealed, files))

    async def _load(self, timestamp: bytes) -> None:
        stamp = decode(Timestamp, timestamp)
        self._stamp = stamp.signed.version
        digest = stamp.signed.snapshot_meta.hashes["sha256"]  # type: ignore[index]
        snapshot = bytes(await self._artifacts.read(digest))
        files = self.lists.files = {"timestamp": timestamp, "snapshot": snapshot}
        for name, file in decode(Snapshot, snapshot).signed.meta.items():
            digest = file.hashes["sha256"]  # type: ignore[index]
            files[name.removesuffix(".json")] = bytes(await self._artifacts.read(digest))

    async def run(self) -> None:
        """Sign again in good time. Until cancelled."""
        while True:
            await asyncio.sleep(min(max(self.periods.timestamp / 32, POLL_S[0]), POLL_S[1]))
            try:
                await self.renew()
            except MsrtError as error:
                log.warning("signing.not_renewed", code=error.code, error=words_of(error))
                await asyncio.sleep(AGAIN_S)

    # --- asking ------------------------------------------------------------------------------------------------

    def answer(self, params: dict[str, object]) -> object:
        """To a floor's `trust.get`. Raises CallerError."""
        return told(params, self.roots, self._anchor, self.lists.files["timestamp"], self._stamp)

    @property
    def roots(self) -> list[bytes]:
        """All of them, oldest first."""
        return self.lists.roots

    @property
    def first_root(self) -> bytes:
        """SHA-256 of root 1, which every certificate names."""
        return hashlib.sha256(self.roots[0]).digest()

    @property
    def root(self) -> Root:
        """In force."""
        return self.lists.root

    def named(self) -> set[str]:
        """Digests of the files in force, and of those that were replaced a short while ago."""
        files = (data for name, data in self.lists.files.items() if name != "timestamp")
        return {hashlib.sha256(data).hexdigest() for data in files}.union(self._gone)

    def summary(self) -> dict[str, float]:
        """For `msrt status`."""
        stamp, wall = decode(Timestamp, self.lists.files["timestamp"]).signed, self._world.wall()
        root = self.root
        return {
            "root": float(root.version), "timestamp": float(stamp.version),
            "left_s": stamp.expires.timestamp() - wall, "root_left_s": root.expires.timestamp() - wall,
            **{f"unsigned_{name}_s": ends - wall for name, ends in self.lists.unsigned.items()},
        }  # fmt: skip

    # --- signing -----------------------------------------------------------------------------------------------

    async def publish(self, add: Mapping[str, Target], drop: Iterable[str] = ()) -> None:
        """Sign for artifacts by path, and no longer for others. On return it is durable and told to who asks.

        Raises Conflict (a key that it takes is not here), DiskFull; then nothing changed.
        """
        gone = list(drop)
        async with self._turn:
            files = await self._world.offload(lambda: self.lists.changed(self.lists.missing(add), gone))
            if files:
                await self._put(await self._world.offload(self.lists.sealed, files))

    async def renew(self) -> None:
        """Sign again whatever has used up its share of its time, the root among it where its keys are here. Raises as
        `publish`."""
        async with self._turn:
            root = await self._world.offload(self.lists.root_due)
            if root is not None:
                await self._take([root])
                return
            files = await self._world.offload(self.lists.due)
            if files is not None:
                await self._put(await self._world.offload(self.lists.sealed, files))

    async def take(self, roots: list[bytes]) -> None:
        """New roots, checked by whoever calls. Raises Conflict where their keys are not here to sign what must be
        signed anew, DiskFull; then nothing changed."""
        async with self._turn:
            await self._take(roots)

    async def _take(self, roots: list[bytes]) -> None:
        lists, before = self.lists, self.roots
        lists.roots = [*before, *roots]
        try:
            changed = await self._world.offload(lists.resigned)
            await self._put(await self._world.offload(partial(lists.sealed, changed, anew=True)))
        except BaseException:
            lists.roots = before
            raise

    async def rotate(self, kind: Kind) -> str:
        """A new key for a kind of artifacts, in place of those it has; its id. Raises Conflict, DiskFull."""
        async with self._turn:
            keyid: str
            files: dict[str, bytes]
            keyid, files = await self._world.offload(self.lists.rotated, kind)
            await self._put(await self._world.offload(self.lists.sealed, files))
        return keyid

    async def accept(self, request: Request, needed: Collection[str]) -> int:
        """A list that was signed elsewhere comes into force; its version. needed: paths that the journal names. Raises
        NotTrusted, Conflict, InvalidConfig, Corrupt, DiskFull; then nothing changed."""
        async with self._turn:
            files = await self._world.offload(self.lists.accepted, request, needed)
            if files:
                await self._put(await self._world.offload(self.lists.sealed, files))
        return int(content(self.lists.files[request.role]).version)

    async def _put(self, files: Mapping[str, bytes]) -> None:
        """Durable, then in force."""
        replaced = []
        for name, data in files.items():
            if name != "timestamp":
                await self._artifacts.put_bytes(data)
                replaced += [file_of(1, self.lists.files[name]).hashes["sha256"]] if name in self.lists.files else []  # type: ignore[index]
        gone = [*self._gone, *replaced]
        for number, root in enumerate(self.roots, 1):
            self._store.put(f"root/{number:08}", root)
        self._store.put("anchor", self._anchor)
        self._store.put("timestamp", files["timestamp"])
        self._store.put("gone", msgspec.json.encode(gone[-KEPT:]))
        await self._world.offload(self._store.commit)
        self.lists.files.update(files)
        self._stamp = decode(Timestamp, files["timestamp"]).signed.version
        self._gone = gone[-KEPT:]
        for digest in gone[:-KEPT]:
            with contextlib.suppress(NotFound, DiskFull):
                await self._artifacts.drop(digest)
