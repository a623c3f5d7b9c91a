"""Metadata made by python-tuf, good and bad, and two readers of it: ours, and python-tuf's own `Updater`."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient import FetcherInterface, Updater

from msrt.errors import MsrtError
from msrt.trust.tuf.workflow import Trusted, Wanted
from msrt_cloud.signing.signed import encode

NOW = 1_770_000_000.0
DAY = 86_400.0
PATH = "models/default/net/1"
DIGEST = hashlib.sha256(b"net").hexdigest()


def key(name):
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def at(wall):
    return dt.datetime.fromtimestamp(int(wall), dt.UTC)


class Forge:
    """A repository in which everything can be wrong. `keys`: role to names of its keys."""

    def __init__(self):
        roles = ("root", "targets", "snapshot", "timestamp", "models")
        self.keys = {role: [role] for role in roles}
        self.threshold = dict.fromkeys(roles, 1)
        self.signers = {}
        """Role to the names of keys that sign in place of its own."""
        self.roots, self.versions = [], dict.fromkeys([*roles, "bin"], 0)
        self.mirror = {}
        """Role to the file that is served, whichever was asked for."""
        self.root()
        self.publish()

    def sign(self, signed, role, *more):
        metadata = Metadata(signed)
        for name in dict.fromkeys([*self.signers.get(role, self.keys[role]), *more]):
            metadata.sign(key(name), append=True)
        return encode(metadata)

    def root(self, *more, left=365 * DAY, signers=None):
        """The next root; `more`: keys of the one before that sign it as well."""
        self.versions["root"] += 1
        root = Root(self.versions["root"], expires=at(NOW + left))
        for role in root.roles:
            for name in self.keys[role]:
                root.add_key(key(name).public_key, role)
            root.roles[role].threshold = self.threshold[role]
        self.roots.append(self.sign(root, "root", *more) if signers is None else self._by(root, signers))
        return self.roots[-1]

    def _by(self, signed, names):
        metadata = Metadata(signed)
        for name in names:
            metadata.sign(key(name), append=True)
        return encode(metadata)

    def publish(self, targets=None, *, timestamp_s=14 * DAY, snapshot_s=365 * DAY, targets_s=365 * DAY, **versions):
        """A consistent new state. `versions`: of single roles, in place of the next ones."""
        for role in ("targets", "models", "bin", "snapshot", "timestamp"):
            self.versions[role] = versions.get(role, self.versions[role] + 1)
        models = [key(name).public_key for name in self.keys["models"]]
        ids = [one.keyid for one in models]
        by_id = {one.keyid: one for one in models}
        delegated = DelegatedRole("models", ids, self.threshold["models"], terminating=True, paths=["models/*/*/*"])
        end = at(NOW + targets_s)
        top = Targets(self.versions["targets"], expires=end, delegations=Delegations(by_id, {"models": delegated}))
        bins = SuccinctRoles(ids, self.threshold["models"], 7, "models")
        below = Targets(self.versions["models"], expires=end, delegations=Delegations(by_id, succinct_roles=bins))
        found = {PATH: (DIGEST, 3)} if targets is None else targets
        leaf = {path: TargetFile(size, {"sha256": digest}, path) for path, (digest, size) in found.items()}
        self.bin = bins.get_role_for_target(PATH)
        files = {
            "targets": (self.versions["targets"], self.sign(top, "targets")),
            "models": (self.versions["models"], self.sign(below, "models")),
            self.bin: (
                self.versions["bin"],
                self.sign(Targets(self.versions["bin"], expires=end, targets=leaf), "models"),
            ),
        }
        meta = {f"{name}.json": file_of(*file) for name, file in files.items()}
        snapshot = self.sign(Snapshot(self.versions["snapshot"], expires=at(NOW + snapshot_s), meta=meta), "snapshot")
        stamp = Timestamp(
            self.versions["timestamp"], expires=at(NOW + timestamp_s),
            snapshot_meta=file_of(self.versions["snapshot"], snapshot),
        )  # fmt: skip
        self.mirror = {"timestamp": self.sign(stamp, "timestamp"), "snapshot": snapshot}
        self.mirror |= {name: data for name, (_, data) in files.items()}
        return dict(self.mirror)


def file_of(version, data):
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


class Ours:
    """A client that keeps what it trusts and the files it read, as a floor does, without the shell around it."""

    def __init__(self, forge):
        self.forge = forge
        self.roots = [forge.roots[0]]
        self.timestamp = self.snapshot = b""
        self.files = {}
        """Targets files by digest: a snapshot that still holds needs nothing of the mirror."""

    def ask(self, path=PATH, now=NOW):
        """Digest of the target. Raises MsrtError."""
        mirror = self.forge.mirror
        trusted = Trusted(self.roots[-1])
        for data in self.forge.roots[len(self.roots) :]:
            trusted.add_root(data)
            self.roots.append(data)
        try:
            if self.timestamp:
                trusted.add_timestamp(self.timestamp)
                trusted.add_snapshot(self.snapshot, known=True)
        except MsrtError:
            pass  # of keys that were replaced
        new = trusted.add_timestamp(mirror["timestamp"])
        snapshot = self.snapshot
        if trusted.behind:
            snapshot = mirror["snapshot"]
            trusted.add_snapshot(snapshot)
        while isinstance(found := trusted.find(path, now), Wanted):
            data = self.files.get(found.file.digest, mirror[found.role])
            trusted.add_targets(found, data)
            self.files[found.file.digest] = data
        if new:
            self.timestamp, self.snapshot = mirror["timestamp"], snapshot
        return found.hashes["sha256"]

    def trusts(self, path=PATH, now=NOW):
        """Why not; empty: it does."""
        try:
            assert self.ask(path, now) == DIGEST
        except MsrtError as error:
            return f"{error.code}: {error.text}"
        return ""


class _Mirror(FetcherInterface):
    def __init__(self, forge):
        self.forge = forge

    def _fetch(self, url):
        version, _, role = url.rpartition("/")[2].removesuffix(".json").rpartition(".")
        if role == "root":
            if int(version) > len(self.forge.roots):
                raise DownloadHTTPError("no such root", 404)
            data = self.forge.roots[int(version) - 1]
        else:
            data = self.forge.mirror[role]
        return iter([data])


class Oracle:
    """python-tuf's own client, with a folder and a clock of its own."""

    def __init__(self, forge):
        self.forge = forge
        self.folder = Path(tempfile.mkdtemp(prefix="msrt-tuf-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.bootstrap = forge.roots[0]

    def trusts(self, path=PATH, now=NOW):
        """Why not; empty: it does."""
        try:
            updater = Updater(str(self.folder), "http://mirror/", fetcher=_Mirror(self.forge), bootstrap=self.bootstrap)
            updater._trusted_set.reference_time = dt.datetime.fromtimestamp(now, dt.UTC)
            found = updater.get_targetinfo(path)
        except (RepositoryError, DownloadError) as error:
            return f"{type(error).__name__}: {error}"
        if found is None:
            return "not found"
        assert found.hashes["sha256"] == DIGEST
        return ""
