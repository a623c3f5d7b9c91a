"""One signed metadata file of TUF (specification 1.0.33, sections 4.2 to 4.6): read, and held against its keys. Pure.

The `signed` part is checked as it lies in the file, byte for byte, and not rendered anew: the repository writes it in
canonical JSON, so python-tuf, which does render it, comes to the same bytes. A file that spells it in another way is
refused. Keys are Ed25519. Why not python-tuf itself: a device has no room for it (see README).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from msrt.errors import BadSignature, FrameTooLarge, MalformedFrame

__all__ = [
    "SIGNED_AT", "Authority", "Delegations", "File", "Key", "Role", "Root", "Snapshot", "Succinct", "TargetFile",
    "Targets", "Timestamp", "check_file", "open_metadata",
]  # fmt: skip

SIGNED_AT: Final = "x-msrt-signed-at"
"""A field of ours in the timestamp: seconds since 1970 when it was signed. A machine without a clock learns from it."""

Version = Annotated[int, msgspec.Meta(ge=1)]
SIGNATURES: Final = 64
KEYS: Final = 64
"""Signatures of a file, and keys of a role, beyond which it is refused unread."""


class _Signature(msgspec.Struct, frozen=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True):
    signatures: list[_Signature]
    signed: msgspec.Raw


class Key(msgspec.Struct, frozen=True):
    """A public key; of other types than Ed25519 it is known that they are there, and they count for nothing."""

    keytype: str
    scheme: str
    keyval: dict[str, str]

    def holds(self, signature: str, data: bytes) -> bool:
        """Is that hex signature by this key over these bytes?"""
        if self.keytype != "ed25519" or self.scheme != "ed25519":
            return False
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.keyval["public"]))
            public.verify(bytes.fromhex(signature), data)
        except (InvalidSignature, ValueError, KeyError):
            return False
        return True


class Role(msgspec.Struct, frozen=True):
    """Whose signatures count, and how many it takes."""

    keyids: list[str]
    threshold: Version


class File(msgspec.Struct, frozen=True):
    """A metadata file as another one names it."""

    version: Version
    length: int = -1
    """Bytes; -1: not said."""
    hashes: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """SHA-256, hex: under this it is an artifact. Raises BadSignature where it is not said."""
        if "sha256" not in self.hashes:
            raise BadSignature("the metadata names a file without its SHA-256")
        return self.hashes["sha256"]


class TargetFile(msgspec.Struct, frozen=True):
    """An artifact as a targets role names it."""

    length: int
    hashes: dict[str, str]


class Delegated(msgspec.Struct, frozen=True):
    """A role that speaks for the paths that match."""

    name: str
    keyids: list[str]
    threshold: Version
    terminating: bool = False
    paths: list[str] = []


class Succinct(msgspec.Struct, frozen=True):
    """Hashed bins (TAP 15): NAME_PREFIX-00 and so on, by the first bits of the path's SHA-256."""

    keyids: list[str]
    threshold: Version
    bit_length: Annotated[int, msgspec.Meta(ge=1, le=32)]
    name_prefix: str

    def bin_of(self, path: str) -> str:
        """The role that speaks for a path."""
        number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") >> (32 - self.bit_length)
        return f"{self.name_prefix}-{number:0{len(f'{(1 << self.bit_length) - 1:x}')}x}"

    def holds(self, name: str) -> bool:
        """Is that one of the bins?"""
        prefix, _, suffix = name.rpartition("-")
        width = len(f"{(1 << self.bit_length) - 1:x}")
        if prefix != self.name_prefix or len(suffix) != width or set(suffix) - set("0123456789abcdef"):
            return False
        return int(suffix, 16) < 1 << self.bit_length


class Delegations(msgspec.Struct, frozen=True):
    """To whom a targets role gives paths away."""

    keys: dict[str, Key]
    roles: list[Delegated] = []
    succinct_roles: Succinct | None = None

    def role(self, name: str) -> Role | None:
        """Who signs the delegated role of that name."""
        if self.succinct_roles is not None:
            bins = self.succinct_roles
            return Role(bins.keyids, bins.threshold) if bins.holds(name) else None
        return next((Role(one.keyids, one.threshold) for one in self.roles if one.name == name), None)


class _Signed(msgspec.Struct, frozen=True, tag_field="_type"):
    version: Version
    spec_version: str
    expires: dt.datetime

    def expired(self, now: float) -> bool:
        """now: seconds since 1970."""
        return self.expires.timestamp() <= now


class Root(_Signed, frozen=True, tag="root"):
    """The keys of the top-level roles, its own among them."""

    keys: dict[str, Key]
    roles: dict[str, Role]

    def role(self, name: str) -> Role | None:
        """Who signs the top-level role of that name."""
        return self.roles.get(name)


class Timestamp(_Signed, frozen=True, tag="timestamp"):
    """The snapshot that is in force; signed again and again."""

    meta: dict[str, File]
    signed_at: float = msgspec.field(name=SIGNED_AT, default=0.0)


class Snapshot(_Signed, frozen=True, tag="snapshot"):
    """Every targets file that is in force, in its version."""

    meta: dict[str, File]


class Targets(_Signed, frozen=True, tag="targets"):
    """Artifacts by path, and who else speaks for some."""

    targets: dict[str, TargetFile]
    delegations: Delegations | None = None

    @property
    def keys(self) -> dict[str, Key]:
        """Of those it delegates to."""
        return self.delegations.keys if self.delegations is not None else {}

    def role(self, name: str) -> Role | None:
        """Who signs the role of that name, which it delegates to."""
        return self.delegations.role(name) if self.delegations is not None else None


Authority = Root | Targets
"""Who says whose signatures count."""
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_DECODERS: Final[dict[type, Any]] = {
    kind: msgspec.json.Decoder(kind).decode for kind in (Root, Timestamp, Snapshot, Targets)
}


def open_metadata(kind: type[S], name: str, data: bytes, *authorities: Authority | None, limit: int) -> S:
    """The content of a metadata file, decoded after every authority's signatures held; None: its own (a first root).

    Raises FrameTooLarge, BadSignature, MalformedFrame.
    """
    if len(data) > limit:
        raise FrameTooLarge(len(data), limit, f"{name} metadata")
    try:
        envelope = _envelope(data)
        for authority in authorities:
            if authority is not None:
                _check(envelope, authority, name)
        signed: S = _DECODERS[kind](envelope.signed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFrame(f"the {name} metadata cannot be read: {error}") from None
    if None in authorities and isinstance(signed, Root):
        _check(envelope, signed, name)
    if not signed.spec_version.startswith("1."):
        raise MalformedFrame(f"the {name} metadata is of TUF {signed.spec_version[:16]}", hint="upgrade msrt")
    if signed.expires.tzinfo is None:
        raise MalformedFrame(f"the {name} metadata ends at a time without a zone")
    return signed


def _check(envelope: _Envelope, authority: Authority, name: str) -> None:
    """Raises BadSignature unless enough keys of that role signed; a key counts once, whatever it is called."""
    role = authority.role(name)
    if role is None:
        raise BadSignature(f"nobody speaks for a role {name!r}")
    if len(role.keyids) > KEYS or len(envelope.signatures) > SIGNATURES:
        raise BadSignature(f"the {name} metadata has too many signatures or keys")
    said = {one.keyid: one.sig for one in envelope.signatures}
    if len(said) != len(envelope.signatures):
        raise BadSignature(f"a key signed the {name} metadata twice")
    data = bytes(envelope.signed)
    good = set(_good(authority, role.keyids, said, data))
    if len(good) < role.threshold:
        raise BadSignature(f"the {name} metadata has {len(good)} of {role.threshold} signatures by its present keys")


def _good(authority: Authority, keyids: list[str], said: dict[str, str], data: bytes) -> Iterable[str]:
    for keyid in keyids:
        key, signature = authority.keys.get(keyid), said.get(keyid)
        if key is not None and signature is not None and key.holds(signature, data):
            yield key.keyval["public"].lower()


def check_file(file: File, name: str, data: bytes) -> None:
    """Raises BadSignature unless these bytes are the file that was named: shorter, longer, or other ones."""
    if file.length >= 0 and len(data) != file.length:
        raise BadSignature(f"the {name} metadata has {len(data)} bytes instead of {file.length}")
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise BadSignature(f"the {name} metadata is not the one that was signed for")
