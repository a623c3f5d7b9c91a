"""New roots: made of the one in force, signed by its keys and by their own, at the cloud or where the keys are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from msrt.errors import Conflict, InvalidConfig, NotTrusted
from msrt_cloud.signing.signed import decode, encode, renewed

__all__ = ["check_roots", "lacking", "next_root", "sign_root"]


def next_root(
    current: bytes, wall: float, period_s: float, fresh: Mapping[str, Sequence[Key]], threshold: int = 0
) -> Metadata[Root]:
    """The root after `current`, unsigned, good for period_s from `wall` on. `fresh`: keys that take the place of those
    of a role; `threshold`: signatures that the root itself will take, 0 for as many as before. Raises InvalidConfig."""
    metadata = decode(Root, current)
    root = metadata.signed
    for role, keys in fresh.items():
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in keys:
            root.add_key(key, role)
    own = root.roles["root"]
    own.threshold = threshold or min(own.threshold, len(own.keyids))
    if own.threshold > len(own.keyids):
        raise InvalidConfig(
            f"{own.threshold} signatures of {len(own.keyids)} root keys cannot be had", hint="make more: --keys N"
        )
    renewed(root, wall, period_s)
    metadata.signatures.clear()
    return metadata


def sign_root(metadata: Metadata[Root], current: bytes, signers: Mapping[str, CryptoSigner]) -> None:
    """Add the signatures of all keys at hand, of the root in force and of the new one."""
    for keyid in _wanted(metadata, current):
        if keyid in signers:
            metadata.sign(signers[keyid], append=True)


def lacking(metadata: Metadata[Root], current: bytes) -> str:
    """What is missing until it holds, in words; empty: nothing."""
    old, new = decode(Root, current).signed.roles["root"], metadata.signed.roles["root"]
    for what, role in (("present", old), ("new", new)):
        have = sum(keyid in metadata.signatures for keyid in role.keyids)
        if have < role.threshold:
            return f"{have} of {role.threshold} signatures by the {what} root's keys"
    return ""


def _wanted(metadata: Metadata[Root], current: bytes) -> list[str]:
    old, new = decode(Root, current).signed.roles["root"], metadata.signed.roles["root"]
    return list(dict.fromkeys([*old.keyids, *new.keyids]))


def check_roots(current: bytes, roots: Sequence[bytes], wall: float) -> list[bytes]:
    """Each follows on the one before, by python-tuf's own rules; as they will travel. Raises NotTrusted, Conflict."""
    trusted = TrustedMetadataSet(current, UpdaterConfig().envelope_type)
    out = []
    for data in roots:
        try:
            trusted.update_root(data)
        except RepositoryError as error:
            raise NotTrusted(f"this root does not follow on root {trusted.root.version}: {error}") from error
        out.append(encode(decode(Root, data)))
    if trusted.root.expires.timestamp() <= wall:
        raise Conflict(f"root {trusted.root.version} has ended already")
    return out
