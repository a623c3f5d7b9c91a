"""The repository: what the cloud signs for, in files of TUF that floors below check (`msrt.trust.tuf`).

`publish` is one change: the targets files it touches, a snapshot, a timestamp. The new files are artifacts, durable
before the timestamp that leads to them is; a crash between leaves the old state. Files that were replaced stay for a
while: somebody below may be in the middle of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import structlog
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from msrt.artifacts import ArtifactStore
from msrt.errors import Conflict, DiskFull, MsrtError, NotFound
from msrt.trust.identity import Identity, Purpose
from msrt.trust.tuf.floor import told
from msrt.trust.tuf.metadata import SIGNED_AT
from msrt.trust.tuf.names import Kind
from msrt.world.world import World
from msrt_cloud.signing.first import first_files
from msrt_cloud.signing.keys import KeyRing
from msrt_cloud.signing.rotation import lacking, next_root, sign_root
from msrt_cloud.signing.signed import blank, content, decode, encode, file_of, renewed, sign

__all__ = ["Periods", "Repository", "Target"]

log = structlog.get_logger()
TOP: Final = frozenset({"timestamp", "snapshot", "targets"})
Target = tuple[str, int]
"""SHA-256 (hex) and bytes of an artifact."""
KEPT: Final = 128
"""Files that were replaced and stay."""
POLL_S: Final = (0.25, 3600.0)
AGAIN_S: Final = 10.0


@dataclass(frozen=True)
class Periods:
    """For how long signatures are good, seconds."""

    timestamp: float
    targets: float
    """Snapshot and targets files."""
    root: float


class Repository:
    """All signed metadata of one cloud. Calls wait for each other."""

    def __init__(
        self, world: World, identity: Identity, artifacts: ArtifactStore, ring: KeyRing, periods: Periods
    ) -> None:
        self._world, self._identity, self._artifacts, self.ring = world, identity, artifacts, ring
        self.periods = periods
        self._store = world.disk.store("signing")
        self._turn = asyncio.Lock()
        self.turn = asyncio.Lock()
        """Held by whoever signs for something and then says so in the journal."""
        self.roots: list[bytes] = []
        self._anchor = b""
        self._stamp = 0
        """Version of the timestamp."""
        self._files: dict[str, bytes] = {}
        """Newest file of every role but root, by its name."""
        self._gone: list[str] = []
        """Digests of files that were replaced, oldest first."""

    # --- life --------------------------------------------------------------------------------------------------

    async def open(self, targets: Callable[[], Mapping[str, Target]]) -> None:
        """Load what is on disk; at the first start make keys and a root. `targets`: what the journal names already,
        and is signed for where it is not yet (a tree from before TUF). Raises DiskFull, Corrupt, KeysExposed."""
        self.roots = [data for _, data in self._store.scan("root/")]
        kept = dict(self._store.scan())
        self._anchor = kept.get("anchor", b"")
        self._gone = msgspec.json.decode(kept.get("gone", b"[]"), type=list[str])
        if not self.roots:
            await self._begin()
        else:
            await self._load(kept["timestamp"])
        missing = await self._world.offload(lambda: self._missing(targets()))
        if missing:
            log.info("signing.taken_over", targets=len(missing))
            await self.publish(missing)
        await self.renew()

    async def _begin(self) -> None:
        periods = self.periods
        root, files = await self._world.offload(
            first_files, self.ring, self._world.wall(), periods.root, periods.targets
        )
        self._anchor, self.roots = self._identity.sign(root, Purpose.ROOT), [root]
        log.info("signing.first_root")
        await self._put(await self._world.offload(self._sealed, files))

    async def _load(self, timestamp: bytes) -> None:
        stamp = decode(Timestamp, timestamp)
        self._stamp = stamp.signed.version
        digest = stamp.signed.snapshot_meta.hashes["sha256"]  # type: ignore[index]
        snapshot = bytes(await self._artifacts.read(digest))
        self._files = {"timestamp": timestamp, "snapshot": snapshot}
        for name, file in decode(Snapshot, snapshot).signed.meta.items():
            digest = file.hashes["sha256"]  # type: ignore[index]
            self._files[name.removesuffix(".json")] = bytes(await self._artifacts.read(digest))

    async def run(self) -> None:
        """Sign again in good time. Until cancelled."""
        while True:
            await asyncio.sleep(min(max(self.periods.timestamp / 32, POLL_S[0]), POLL_S[1]))
            try:
                await self.renew()
            except MsrtError as error:
                log.warning("signing.not_renewed", code=error.code, error=str(error))
                await asyncio.sleep(AGAIN_S)

    # --- asking ------------------------------------------------------------------------------------------------

    def answer(self, params: dict[str, object]) -> object:
        """To a floor's `trust.get`. Raises CallerError."""
        return told(params, self.roots, self._anchor, self._files["timestamp"], self._stamp)

    @property
    def root(self) -> Root:
        """In force."""
        return decode(Root, self.roots[-1]).signed

    def summary(self) -> dict[str, float]:
        """For `msrt status`."""
        stamp, wall = decode(Timestamp, self._files["timestamp"]).signed, self._world.wall()
        root = self.root
        return {
            "root": float(root.version), "timestamp": float(stamp.version),
            "left_s": stamp.expires.timestamp() - wall, "root_left_s": root.expires.timestamp() - wall,
        }  # fmt: skip

    def _missing(self, wanted: Mapping[str, Target]) -> dict[str, Target]:
        known = self._all()
        return {path: target for path, target in wanted.items() if known.get(path) != target}

    def _all(self) -> dict[str, Target]:
        out: dict[str, Target] = {}
        for name, data in self._files.items():
            if name not in {"timestamp", "snapshot"}:
                found = decode(Targets, data).signed.targets
                out.update({path: (file.hashes["sha256"], file.length) for path, file in found.items()})
        return out

    # --- signing -----------------------------------------------------------------------------------------------

    async def publish(self, add: Mapping[str, Target], drop: Iterable[str] = ()) -> None:
        """Sign for artifacts by path, and no longer for others. On return it is durable and told to who asks.

        Raises Conflict (a key that it takes is not here), DiskFull; then nothing changed.
        """
        gone = list(drop)
        async with self._turn:
            files = await self._world.offload(self._changed, add, gone)
            if files:
                await self._put(await self._world.offload(self._sealed, files))

    async def renew(self) -> None:
        """Sign again whatever has used up its share of its time, the root among it where its keys are here. Raises as
        `publish`."""
        async with self._turn:
            root = await self._world.offload(self._root_due)
            if root is not None:
                await self._take([root])
                return
            files = await self._world.offload(self._due)
            if files is not None:
                await self._put(await self._world.offload(self._sealed, files))

    async def take(self, roots: list[bytes]) -> None:
        """New roots, checked by whoever calls. Raises Conflict where their keys are not here to sign what must be
        signed anew, DiskFull; then nothing changed."""
        async with self._turn:
            await self._take(roots)

    async def _take(self, roots: list[bytes]) -> None:
        before = self.roots
        self.roots = [*before, *roots]
        try:
            changed = await self._world.offload(self._resigned)
            await self._put(await self._world.offload(partial(self._sealed, changed, anew=True)))
        except BaseException:
            self.roots = before
            raise

    async def rotate(self, kind: Kind) -> str:
        """A new key for a kind of artifacts, in place of those it has; its id. Raises Conflict, DiskFull."""
        async with self._turn:
            keyid: str
            files: dict[str, bytes]
            keyid, files = await self._world.offload(self._rotated, kind)
            await self._put(await self._world.offload(self._sealed, files))
        return keyid

    def _rotated(self, kind: Kind) -> tuple[str, dict[str, bytes]]:
        """The top-level targets that name a new key, and all of that kind signed by it."""
        top = decode(Targets, self._files["targets"])
        above = top.signed.delegations
        assert above is not None
        assert above.roles is not None
        if not set(self._authority("targets")[0]) & self.ring.signers().keys():
            raise Conflict("the key of targets is not here", hint="bring it back into the keys folder first")
        key: Key = self.ring.make(kind).public_key
        _replace(above, above.roles[kind], key)
        ring = self.ring.signers()
        files = {"targets": self._signed("targets", top, ring)}
        for name, data in self._files.items():
            if name == kind or name.startswith(f"{kind}-"):
                metadata = decode(Targets, data)
                below = metadata.signed.delegations
                if below is not None and below.succinct_roles is not None:
                    _replace(below, below.succinct_roles, key)
                renewed(metadata.signed, self._world.wall(), self.periods.targets)
                files[name] = sign(metadata, name, [key.keyid], 1, ring)
        return str(key.keyid), files

    def rows(self) -> list[dict[str, object]]:
        """Every role for `msrt cloud keys show`. Blocking."""
        here, root = self.ring.signers(), self.root
        rows: list[dict[str, object]] = [_row("root", root, root.roles["root"], here)]
        for name in ("timestamp", "snapshot", "targets", *Kind):
            keyids, threshold = self._authority(name)
            rows.append(_row(name, content(self._files[name]), Role(keyids, threshold), here))
        return rows

    def _changed(self, add: Mapping[str, Target], drop: list[str]) -> dict[str, bytes]:
        """Targets files with these artifacts in them."""
        touched: dict[str, Metadata[Targets]] = {}
        ring = self.ring.signers()
        for path in [*add, *drop]:
            name = self._speaker(path)
            if name not in touched:
                known = self._files.get(name)
                touched[name] = decode(Targets, known) if known else blank(Targets())
            if path in add:
                digest, size = add[path]
                touched[name].signed.targets[path] = TargetFile(size, {"sha256": digest}, path)
            else:
                touched[name].signed.targets.pop(path, None)
        return {name: self._signed(name, metadata, ring) for name, metadata in touched.items()}

    def _speaker(self, path: str) -> str:
        """The role that signs for a path."""
        kind = Kind(path.partition("/")[0])
        delegations = decode(Targets, self._files[kind]).signed.delegations
        bins = delegations.succinct_roles if delegations is not None else None
        return bins.get_role_for_target(path) if bins is not None else str(kind)

    def _signed(self, name: str, metadata: Metadata[Targets], ring: Mapping[str, CryptoSigner]) -> bytes:
        renewed(metadata.signed, self._world.wall(), self.periods.targets)
        keyids, threshold = self._authority(name)
        return sign(metadata, name, keyids, threshold, ring)

    def _authority(self, name: str) -> tuple[list[str], int]:
        """Whose signatures count for a role."""
        root = self.root
        if name in TOP:
            role = root.roles[name]
            return role.keyids, role.threshold
        parent = "targets" if name in set(Kind) else name.rpartition("-")[0]
        delegations = decode(Targets, self._files[parent]).signed.delegations
        assert delegations is not None
        found = delegations.succinct_roles or (delegations.roles or {})[name]
        return found.keyids, found.threshold

    def _sealed(self, files: Mapping[str, bytes], *, anew: bool = False) -> dict[str, bytes]:
        """With the snapshot and the timestamp that name them; anew: the snapshot is signed in any case."""
        ring, wall = self.ring.signers(), self._world.wall()
        out = dict(files)
        known = self._files.get("snapshot")
        snapshot = decode(Snapshot, known) if known else blank(Snapshot(meta={}))
        if files or anew or not known or snapshot.signed.expires.timestamp() - wall < self.periods.targets / 2:
            for name, data in files.items():
                snapshot.signed.meta[f"{name}.json"] = file_of(decode(Targets, data).signed.version, data)
            renewed(snapshot.signed, wall, self.periods.targets)
            out["snapshot"] = sign(snapshot, "snapshot", *self._authority("snapshot"), ring)
        known = self._files.get("timestamp")
        stamp = decode(Timestamp, known) if known else blank(Timestamp())
        stamp.signed.snapshot_meta = file_of(snapshot.signed.version, out.get("snapshot") or self._files["snapshot"])
        stamp.signed.unrecognized_fields[SIGNED_AT] = int(wall)
        renewed(stamp.signed, wall, self.periods.timestamp)
        out["timestamp"] = sign(stamp, "timestamp", *self._authority("timestamp"), ring)
        return out

    def _due(self) -> dict[str, bytes] | None:
        """Targets files that are signed anew; None: not even the timestamp need be."""
        wall, ring = self._world.wall(), self.ring.signers()
        stamp = decode(Timestamp, self._files["timestamp"]).signed
        signed_at = stamp.unrecognized_fields.get(SIGNED_AT, 0)
        files = {}
        for name, data in self._files.items():
            if name in {"timestamp", "snapshot"}:
                continue
            metadata = decode(Targets, data)
            if metadata.signed.expires.timestamp() - wall < self.periods.targets / 2:
                with contextlib.suppress(Conflict):  # its key was taken out: whoever has it signs
                    files[name] = self._signed(name, metadata, ring)
        if files or wall - signed_at > self.periods.timestamp / 8 or wall < signed_at:
            return files
        return None

    def _root_due(self) -> bytes | None:
        """The next root, by the same keys, where a quarter of its time is left."""
        current, wall = self.roots[-1], self._world.wall()
        if self.root.expires.timestamp() - wall > self.periods.root / 4:
            return None
        metadata = next_root(current, wall, self.periods.root, {})
        sign_root(metadata, current, self.ring.signers())
        return None if lacking(metadata, current) else encode(metadata)

    def _resigned(self) -> dict[str, bytes]:
        """Top-level targets by the keys that the root names now."""
        metadata = decode(Targets, self._files["targets"])
        try:
            self.root.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError:
            return {"targets": self._signed("targets", metadata, self.ring.signers())}
        return {}

    async def _put(self, files: Mapping[str, bytes]) -> None:
        """Durable, then in force."""
        replaced = []
        for name, data in files.items():
            if name != "timestamp":
                await self._artifacts.put_bytes(data)
                replaced += [file_of(1, self._files[name]).hashes["sha256"]] if name in self._files else []  # type: ignore[index]
        gone = [*self._gone, *replaced]
        for number, root in enumerate(self.roots, 1):
            self._store.put(f"root/{number:08}", root)
        self._store.put("anchor", self._anchor)
        self._store.put("timestamp", files["timestamp"])
        self._store.put("gone", msgspec.json.encode(gone[-KEPT:]))
        await self._world.offload(self._store.commit)
        self._files.update(files)
        self._stamp = decode(Timestamp, files["timestamp"]).signed.version
        self._gone = gone[-KEPT:]
        for digest in gone[:-KEPT]:
            with contextlib.suppress(NotFound, DiskFull):
                await self._artifacts.drop(digest)


def _replace(delegations: Delegations, role: Role, key: Key) -> None:
    """That key alone speaks for a delegated role."""
    for keyid in role.keyids:
        delegations.keys.pop(keyid, None)
    delegations.keys[key.keyid] = key
    role.keyids, role.threshold = [key.keyid], 1


def _row(name: str, signed: Signed, role: Role, here: Mapping[str, CryptoSigner]) -> dict[str, object]:
    return {
        "role": name, "version": signed.version, "expires": signed.expires.isoformat(), "threshold": role.threshold,
        "keys": list(role.keyids), "here": sum(keyid in here for keyid in role.keyids),
    }  # fmt: skip
