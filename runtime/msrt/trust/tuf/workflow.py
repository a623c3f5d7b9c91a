"""The client workflow of TUF (specification 1.0.33, section 5) as an object that decides and does nothing else.

Files go in in the order root, timestamp, snapshot, targets, delegated targets; each is checked against what came
before, and one that fails leaves everything as it was. A renewed trust starts from a `Trusted` of its own, first with
the files that were trusted last (they protect from a rollback), then with new ones: as python-tuf's `Updater` does it,
which the tests hold this against.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from msrt.errors import BadSignature, NotTrusted, TrustExpired
from msrt.trust.tuf.metadata import (
    Delegations,
    File,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
    check_file,
    open_metadata,
)

__all__ = ["METADATA_LIMIT", "ROOT_LIMIT", "TIMESTAMP_LIMIT", "TOP", "Trusted", "Wanted"]

ROOT_LIMIT: Final = 64 << 10
TIMESTAMP_LIMIT: Final = 16 << 10
METADATA_LIMIT: Final = 4 << 20
"""Bytes of one metadata file."""
TOP: Final = "targets"
VISITED: Final = 32
"""Roles that one question may visit."""


class Wanted:
    """A metadata file that is needed to go on."""

    __slots__ = ("file", "parent", "role")

    def __init__(self, role: str, parent: str, file: File) -> None:
        self.role, self.parent, self.file = role, parent, file


class Trusted:
    """What is trusted, beginning with a root that somebody vouches for. Times: seconds since 1970."""

    def __init__(self, root: bytes) -> None:
        """Raises BadSignature, MalformedFrame, FrameTooLarge."""
        self.root: Root = open_metadata(Root, "root", root, None, limit=ROOT_LIMIT)
        self.timestamp: Timestamp | None = None
        self.snapshot: Snapshot | None = None
        self.roles: dict[str, Targets] = {}
        """Targets roles by name, top-level and delegated."""

    def add_root(self, data: bytes) -> None:
        """The next root: signed by the present one's keys and by its own (5.3). May be expired: a later one may not
        be. Raises BadSignature, NotTrusted."""
        new = open_metadata(Root, "root", data, self.root, None, limit=ROOT_LIMIT)
        if new.version != self.root.version + 1:
            raise NotTrusted(f"after root {self.root.version} comes {self.root.version + 1}, not {new.version}")
        self.root, self.timestamp, self.snapshot, self.roles = new, None, None, {}

    def add_timestamp(self, data: bytes) -> bool:
        """Another timestamp (5.4); False: it is the present one. Raises BadSignature, NotTrusted for an older one."""
        new = open_metadata(Timestamp, "timestamp", data, self.root, limit=TIMESTAMP_LIMIT)
        now, then = _only(new), _only(self.timestamp) if self.timestamp is not None else None
        if self.timestamp is not None and then is not None:
            if new.version == self.timestamp.version:
                return False
            _not_older("timestamp", self.timestamp.version, new.version)
            _not_older("snapshot", then.version, now.version)
        self.timestamp = new
        return True

    def add_snapshot(self, data: bytes, *, known: bool = False) -> None:
        """The snapshot that the timestamp names (5.5). known: it was trusted before, and serves as a lower bound until
        a newer one comes. Raises BadSignature, NotTrusted."""
        assert self.timestamp is not None
        if not known:
            check_file(_only(self.timestamp), "snapshot", data)
        new = open_metadata(Snapshot, "snapshot", data, self.root, limit=METADATA_LIMIT)
        if not known and new.version != _only(self.timestamp).version:
            raise NotTrusted(f"the timestamp names snapshot {_only(self.timestamp).version}, not {new.version}")
        for name, file in (self.snapshot.meta if self.snapshot is not None else {}).items():
            if name not in new.meta:
                raise NotTrusted(f"the new snapshot lacks {name}, which an earlier one had")
            _not_older(name, file.version, new.meta[name].version)
        self.snapshot = new

    @property
    def behind(self) -> bool:
        """The snapshot here is not the one that the timestamp names."""
        assert self.timestamp is not None
        return self.snapshot is None or self.snapshot.version != _only(self.timestamp).version

    def add_targets(self, wanted: Wanted, data: bytes) -> None:
        """A targets role, as the snapshot names it and its delegator's keys sign it (5.6). Raises BadSignature,
        NotTrusted."""
        authority = self.root if wanted.role == TOP else self.roles[wanted.parent]
        check_file(wanted.file, wanted.role, data)
        new = open_metadata(Targets, wanted.role, data, authority, limit=METADATA_LIMIT)
        if new.version != wanted.file.version:
            raise NotTrusted(f"the snapshot names {wanted.role} {wanted.file.version}, not {new.version}")
        self.roles[wanted.role] = new

    @property
    def snapshot_file(self) -> File:
        """As the timestamp names it."""
        assert self.timestamp is not None
        return _only(self.timestamp)

    def fresh(self, now: float) -> None:
        """Raises TrustExpired while something that all trust goes through has ended: a freeze, or a cloud that is away
        for long."""
        for name, signed in (("root", self.root), ("timestamp", self.timestamp), ("snapshot", self.snapshot)):
            if signed is None:
                raise NotTrusted(f"no {name} has come yet")
            if signed.expired(now):
                raise TrustExpired(name, signed.expires.timestamp())

    def find(self, path: str, now: float) -> TargetFile | Wanted:
        """The artifact of that path, or the file that is needed to tell (5.6.7: in order, depth first). Raises
        NotTrusted where nobody signed it, TrustExpired."""
        self.fresh(now)
        assert self.snapshot is not None
        ahead, seen = [(TOP, "root")], set[str]()
        while ahead and len(seen) < VISITED:
            name, parent = ahead.pop()
            if name in seen:
                continue
            seen.add(name)
            file = self.snapshot.meta.get(f"{name}.json")
            if file is None:
                continue  # a bin that holds nothing is not written
            role = self.roles.get(name)
            if role is None or role.version != file.version:
                return Wanted(name, parent, file)
            if role.expired(now):
                raise TrustExpired(name, role.expires.timestamp())
            if path in role.targets:
                return role.targets[path]
            below, last = _delegates(role.delegations, path)
            if last:
                ahead.clear()
            ahead += [(one, name) for one in reversed(below)]
        raise NotTrusted(f"nobody signed {path}", hint="it was withdrawn, or is newer than what has come here")


def _delegates(delegations: Delegations | None, path: str) -> tuple[list[str], bool]:
    """Roles that may speak for a path, in order, and whether the last of them has the last word."""
    if delegations is None:
        return [], False
    if delegations.succinct_roles is not None:
        return [delegations.succinct_roles.bin_of(path)], True
    out = []
    for role in delegations.roles:
        if any(_matches(path, pattern) for pattern in role.paths):
            out.append(role.name)
            if role.terminating:
                return out, True
    return out, False


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _only(timestamp: Timestamp) -> File:
    file = timestamp.meta.get("snapshot.json")
    if file is None:
        raise BadSignature("the timestamp names no snapshot")
    return file


def _not_older(what: str, had: int, new: int) -> None:
    if new < had:
        raise NotTrusted(f"{what} {new} is older than {had}, which was here before", hint="somebody rolls it back")
