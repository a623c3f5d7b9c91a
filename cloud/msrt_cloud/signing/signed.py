"""Metadata of python-tuf as the bytes that travel, and back."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from msrt.errors import Conflict, Corrupt

__all__ = ["blank", "content", "decode", "encode", "file_of", "moment", "renewed", "sign"]

_THERE: Final = "FILE, then msrt cloud keys sign FILE where they are, then"
ELSEWHERE: Final = {
    "targets": f"msrt cloud keys request targets {_THERE} msrt cloud keys import FILE",
    "agents": f"msrt update push ... --request {_THERE} msrt update push ... --signed FILE",
    "images": f"msrt update push ... --request {_THERE} msrt update push ... --signed FILE",
}
"""What to do where the keys of a role were taken away on purpose."""
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def encode(metadata: Metadata[S]) -> bytes:
    """With `signed` in canonical JSON, exactly as it was signed: readers need not render it anew."""
    signatures = [{"keyid": one.keyid, "sig": one.signature} for one in metadata.signatures.values()]
    head = encode_canonical(signatures)
    assert head is not None
    return b'{"signatures":' + head.encode() + b',"signed":' + metadata.signed_bytes + b"}"


def decode(kind: type[S], data: bytes) -> Metadata[S]:
    """The inverse; signatures are not checked. Raises Corrupt."""
    try:
        metadata = Metadata[S].from_bytes(data)
    except (DeserializationError, RepositoryError, ValueError) as error:
        raise Corrupt(f"no metadata of TUF: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise Corrupt(f"this is {metadata.signed.type} metadata, not {kind.type}")
    return metadata


def content(data: bytes) -> Signed:
    """Of metadata of any role."""
    signed: Signed = Metadata.from_bytes(data).signed
    return signed


def blank(signed: S) -> Metadata[S]:
    """What has no version yet: `renewed` gives it the first."""
    signed.version = 0
    return Metadata(signed)


def sign(
    metadata: Metadata[S], role: str, keyids: Iterable[str], threshold: int, ring: Mapping[str, CryptoSigner]
) -> bytes:
    """Sign with every key of that role that is here. Raises Conflict where these are too few."""
    here = [ring[keyid] for keyid in keyids if keyid in ring]
    if len(here) < threshold:
        raise Conflict(
            f"{len(here)} of the {threshold} keys that sign {role} are here",
            hint=ELSEWHERE.get(role, "put them back into the keys folder of the cloud's state"),
        )
    metadata.signatures.clear()
    for signer in here:
        metadata.sign(signer, append=True)
    return encode(metadata)


def file_of(version: int, data: bytes) -> MetaFile:
    """How another file names this one."""
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def moment(wall: float) -> dt.datetime:
    """Seconds since 1970 as python-tuf writes them: UTC, whole seconds."""
    return dt.datetime.fromtimestamp(int(wall), dt.UTC)


def renewed(signed: Signed, wall: float, period_s: float) -> None:
    """The next version, good for a period from now."""
    signed.version += 1
    signed.expires = moment(wall + period_s)
