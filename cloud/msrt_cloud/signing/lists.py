"""All signed files of a repository, and what follows from a change: blocking, and nothing is kept on disk here.

Every method that signs returns files by role; `Repository` makes them durable, and then they are in force.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Delegations, Metadata, Role, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from msrt.artifacts.images import Image
from msrt.errors import Conflict
from msrt.trust.tuf.metadata import SIGNED_AT
from msrt.trust.tuf.names import Kind
from msrt_cloud.signing.keys import KeyRing
from msrt_cloud.signing.offline import Request, authority, check_offline, checked, draft, path_of
from msrt_cloud.signing.periods import Periods
from msrt_cloud.signing.rotation import lacking, next_root, sign_root
from msrt_cloud.signing.signed import blank, content, decode, encode, file_of, renewed, sign

__all__ = ["Lists", "Target"]

TOP = frozenset({"timestamp", "snapshot", "targets"})
Target = tuple[str, int]
"""SHA-256 (hex) and bytes of an artifact."""


class Lists:
    """The files in force. `wall`: seconds since 1970."""

    def __init__(self, ring: KeyRing, periods: Periods, wall: Callable[[], float]) -> None:
        self.ring, self.periods, self._wall = ring, periods, wall
        self.roots: list[bytes] = []
        self.files: dict[str, bytes] = {}
        """Newest file of every role but root, by its name."""
        self.unsigned: dict[str, float] = {}
        """Lists that should be signed anew where their keys are: until when they are good."""

    @property
    def root(self) -> Root:
        """In force."""
        return decode(Root, self.roots[-1]).signed

    def missing(self, wanted: Mapping[str, Target]) -> dict[str, Target]:
        known = self._all()
        return {path: target for path, target in wanted.items() if known.get(path) != target}

    def _all(self) -> dict[str, Target]:
        out: dict[str, Target] = {}
        for name, data in self.files.items():
            if name not in {"timestamp", "snapshot"}:
                found = decode(Targets, data).signed.targets
                out.update({path: (file.hashes["sha256"], file.length) for path, file in found.items()})
        return out

    def rotated(self, kind: Kind) -> tuple[str, dict[str, bytes]]:
        """The top-level targets that name a new key, and all of that kind signed by it."""
        self._check_top()
        key: Key = self.ring.make(kind).public_key
        files = {"targets": self._renamed(kind, [key], 1)}
        ring = self.ring.signers()
        for name, data in self.files.items():
            if name == kind or name.startswith(f"{kind}-"):
                metadata = decode(Targets, data)
                below = metadata.signed.delegations
                if below is not None and below.succinct_roles is not None:
                    _replace(below, below.succinct_roles, [key], 1)
                renewed(metadata.signed, self._wall(), self.periods.targets)
                files[name] = sign(metadata, name, [key.keyid], 1, ring)
        return str(key.keyid), files

    def _check_top(self) -> None:
        keyids, threshold = self._authority("targets")
        if len(set(keyids) & self.ring.signers().keys()) < threshold:
            raise Conflict("the key of targets is not here", hint="bring it back into the keys folder first")

    def _renamed(self, kind: str, keys: Sequence[Key], threshold: int) -> bytes:
        """Top-level targets by which these keys speak for a kind."""
        top = decode(Targets, self.files["targets"])
        above = top.signed.delegations
        assert above is not None
        assert above.roles is not None
        _replace(above, above.roles[kind], keys, threshold)
        return self._signed("targets", top, self.ring.signers())

    def request(self, role: str, images: Sequence[Image], keys: Sequence[Key] = (), threshold: int = 0) -> Request:
        """What is to be signed elsewhere: the next version of a list. keys: new ones for it; else those in force sign.
        Raises InvalidConfig, Conflict. Blocking."""
        check_offline(role, keys, threshold)
        mine = [image for image in images if path_of(image).partition("/")[0] == role]
        if keys:
            self._check_top()
        known, count = self._speakers(role)
        return draft(
            role, self.files[role], keys or list(known.values()), (threshold or 1) if keys else count, mine,
            rotates=bool(keys), wall=self._wall(), period_s=self.periods.targets,
        )  # fmt: skip

    def accepted(self, request: Request, needed: Collection[str]) -> dict[str, bytes]:
        role = request.role
        named = authority(request)
        check_offline(role, list(named.values()) if request.rotates else (), request.threshold)
        keys, threshold = (named, request.threshold) if request.rotates else self._speakers(role)
        data = checked(request, self.files[role], keys, threshold, needed, self._wall())
        if not data:
            return {}
        top = {"targets": self._renamed(role, list(keys.values()), threshold)} if request.rotates else {}
        return {**top, role: data}

    def _speakers(self, name: str) -> tuple[dict[str, Key], int]:
        """The public keys of a list that may be signed elsewhere, and how many it takes."""
        keyids, threshold = self._authority(name)
        above = decode(Targets, self.files["targets"]).signed.delegations
        known = self.root.keys if name in TOP else above.keys if above is not None else {}
        return {keyid: known[keyid] for keyid in keyids}, threshold

    def rows(self) -> list[dict[str, object]]:
        """Every role for `msrt cloud keys show`. Blocking."""
        here, root = self.ring.signers(), self.root
        rows: list[dict[str, object]] = [_row("root", root, root.roles["root"], here)]
        for name in ("timestamp", "snapshot", "targets", *Kind):
            keyids, threshold = self._authority(name)
            rows.append(_row(name, content(self.files[name]), Role(keyids, threshold), here))
        return rows

    def changed(self, add: Mapping[str, Target], drop: list[str]) -> dict[str, bytes]:
        """Targets files with these artifacts in them."""
        touched: dict[str, Metadata[Targets]] = {}
        ring = self.ring.signers()
        for path in [*add, *drop]:
            name = self._speaker(path)
            if name not in touched:
                known = self.files.get(name)
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
        delegations = decode(Targets, self.files[kind]).signed.delegations
        bins = delegations.succinct_roles if delegations is not None else None
        return bins.get_role_for_target(path) if bins is not None else str(kind)

    def _signed(self, name: str, metadata: Metadata[Targets], ring: Mapping[str, CryptoSigner]) -> bytes:
        renewed(metadata.signed, self._wall(), self.periods.targets)
        keyids, threshold = self._authority(name)
        return sign(metadata, name, keyids, threshold, ring)

    def _authority(self, name: str) -> tuple[list[str], int]:
        """Whose signatures count for a role."""
        root = self.root
        if name in TOP:
            role = root.roles[name]
            return role.keyids, role.threshold
        parent = "targets" if name in set(Kind) else name.rpartition("-")[0]
        delegations = decode(Targets, self.files[parent]).signed.delegations
        assert delegations is not None
        found = delegations.succinct_roles or (delegations.roles or {})[name]
        return found.keyids, found.threshold

    def sealed(self, files: Mapping[str, bytes], *, anew: bool = False) -> dict[str, bytes]:
        """With the snapshot and the timestamp that name them; anew: the snapshot is signed in any case."""
        ring, wall = self.ring.signers(), self._wall()
        out = dict(files)
        known = self.files.get("snapshot")
        snapshot = decode(Snapshot, known) if known else blank(Snapshot(meta={}))
        if files or anew or not known or snapshot.signed.expires.timestamp() - wall < self.periods.targets / 2:
            for name, data in files.items():
                snapshot.signed.meta[f"{name}.json"] = file_of(decode(Targets, data).signed.version, data)
            renewed(snapshot.signed, wall, self.periods.targets)
            out["snapshot"] = sign(snapshot, "snapshot", *self._authority("snapshot"), ring)
        known = self.files.get("timestamp")
        stamp = decode(Timestamp, known) if known else blank(Timestamp())
        stamp.signed.snapshot_meta = file_of(snapshot.signed.version, out.get("snapshot") or self.files["snapshot"])
        stamp.signed.unrecognized_fields[SIGNED_AT] = int(wall)
        renewed(stamp.signed, wall, self.periods.timestamp)
        out["timestamp"] = sign(stamp, "timestamp", *self._authority("timestamp"), ring)
        return out

    def due(self) -> dict[str, bytes] | None:
        """Targets files that are signed anew; None: not even the timestamp need be."""
        wall, ring = self._wall(), self.ring.signers()
        stamp = decode(Timestamp, self.files["timestamp"]).signed
        signed_at = stamp.unrecognized_fields.get(SIGNED_AT, 0)
        files, unsigned = dict[str, bytes](), dict[str, float]()
        for name, data in self.files.items():
            if name in {"timestamp", "snapshot"}:
                continue
            metadata = decode(Targets, data)
            ends = metadata.signed.expires.timestamp()
            if ends - wall < self.periods.targets / 2:
                try:
                    files[name] = self._signed(name, metadata, ring)
                except Conflict:  # its key was taken out: whoever has it signs
                    unsigned[name] = ends
        self.unsigned = unsigned
        if files or wall - signed_at > self.periods.timestamp / 8 or wall < signed_at:
            return files
        return None

    def root_due(self) -> bytes | None:
        """The next root, by the same keys, where a quarter of its time is left."""
        current, wall = self.roots[-1], self._wall()
        if self.root.expires.timestamp() - wall > self.periods.root / 4:
            return None
        metadata = next_root(current, wall, self.periods.root, {})
        sign_root(metadata, current, self.ring.signers())
        return None if lacking(metadata, current) else encode(metadata)

    def resigned(self) -> dict[str, bytes]:
        """Top-level targets by the keys that the root names now."""
        metadata = decode(Targets, self.files["targets"])
        try:
            self.root.verify_delegate("targets", metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError:
            return {"targets": self._signed("targets", metadata, self.ring.signers())}
        return {}


def _replace(delegations: Delegations, role: Role, keys: Sequence[Key], threshold: int) -> None:
    """Those keys alone speak for a delegated role."""
    for keyid in role.keyids:
        delegations.keys.pop(keyid, None)
    delegations.keys.update({key.keyid: key for key in keys})
    role.keyids, role.threshold = [key.keyid for key in keys], threshold


def _row(name: str, signed: Signed, role: Role, here: Mapping[str, CryptoSigner]) -> dict[str, object]:
    return {
        "role": name, "version": signed.version, "expires": signed.expires.isoformat(), "threshold": role.threshold,
        "keys": list(role.keyids), "here": sum(keyid in here for keyid in role.keyids),
    }  # fmt: skip
