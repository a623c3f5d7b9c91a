"""The first metadata of a repository."""

from __future__ import annotations

from typing import Final

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, SuccinctRoles, Targets

from msrt.trust.tuf.names import BINNED, DEPTH, Kind
from msrt_cloud.signing.keys import ROLES, KeyRing
from msrt_cloud.signing.signed import moment, sign

__all__ = ["BIN_BITS", "first_files"]

BIN_BITS: Final = 7
"""128 bins a kind: at 10,000 targets a bin and the snapshot have about 15 KB each, and more or fewer bins make the sum
larger (`python -m tests.bench trust`). Bins that hold nothing are not written, so a small tree has small files."""


def first_files(ring: KeyRing, wall: float, root_s: float, targets_s: float) -> tuple[bytes, dict[str, bytes]]:
    """Root 1, and the targets files by role: they name who signs for what, and hold nothing yet. Blocking.

    root_s, targets_s: for how long they are good. Raises DiskFull, StateUnusable.
    """
    keys = {role: ring.make(role).public_key for role in ROLES}
    root = Root(expires=moment(wall + root_s))
    for role in root.roles:
        root.add_key(keys[role], role)
    signers = ring.signers()
    ids = {role: [key.keyid] for role, key in keys.items()}

    delegated = {
        str(kind): DelegatedRole(str(kind), ids[kind], 1, terminating=True, paths=[f"{kind}{'/*' * DEPTH[kind]}"])
        for kind in Kind
    }
    top = Targets(
        expires=moment(wall + targets_s),
        delegations=Delegations({keys[kind].keyid: keys[kind] for kind in Kind}, delegated),
    )
    files = {"targets": sign(Metadata(top), "targets", ids["targets"], 1, signers)}
    for kind in Kind:
        below = Targets(expires=moment(wall + targets_s))
        if kind in BINNED:
            bins = SuccinctRoles(ids[kind], 1, BIN_BITS, str(kind))
            below.delegations = Delegations({keys[kind].keyid: keys[kind]}, succinct_roles=bins)
        files[str(kind)] = sign(Metadata(below), kind, ids[kind], 1, signers)
    return sign(Metadata(root), "root", ids["root"], 1, signers), files
