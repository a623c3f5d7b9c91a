"""A node's two key pairs: Ed25519 to sign with, X25519 for its CURVE links.

Every signature is made for a purpose, and the purpose is signed with the data: a signed invite can never be passed
off as a signed certificate, whatever bytes an attacker gets signed.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from msrt.errors import BadSignature, Corrupt, NotFound
from msrt.protocol.address import node_id
from msrt.trust.private import read_private, write_private

__all__ = ["Identity", "Purpose", "link_public", "verify"]

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


class Purpose(enum.StrEnum):
    """What a signature is good for."""

    CERTIFICATE = "certificate"
    """The cloud: this node is enrolled."""
    INVITE = "invite"
    """The cloud: who holds this may join."""
    ENROL = "enrol"
    """A node: this link key is mine."""
    JOURNAL = "journal"
    """The cloud: a block of journal entries."""
    MANIFEST = "manifest"
    """The cloud: a model's manifest."""
    BUNDLE = "bundle"
    """The cloud: the digest of a job bundle."""
    IMAGE = "image"
    """The cloud: the description of an agent's, system's or firmware's image."""
    ROOT = "root"
    """The cloud: the first root of its signed metadata (TUF); later ones are signed by the one before."""
    SECURE = "secure"
    """A device: these keys of one secure aggregation are mine."""
    WIPE = "wipe"
    """The cloud: the node of this id is decommissioned, and wipes itself."""


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file on disk. A link key that lost a bit would look like another server: the check finds it first."""

    version: int
    node: str
    seed: bytes
    link: bytes
    check: bytes
    """SHA-256 of both secrets, 8 bytes: it is as secret as they are."""


class Identity:
    """Both key pairs. Made once per node, kept on disk with mode 0600, never sent."""

    def __init__(self, seed: bytes, link_secret: bytes) -> None:
        if len(seed) != KEY_SIZE or len(link_secret) != KEY_SIZE:
            raise Corrupt("keys must be 32 bytes each")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.link_secret: Final = link_secret
        """X25519 secret key, 32 raw bytes: the CURVE secret key."""
        self.link_public: Final = link_public(link_secret)
        """Its public key, 32 raw bytes."""
        self.public: Final = self._key.public_key().public_bytes_raw()
        """Ed25519 public key, 32 raw bytes."""
        self.node: Final = node_id(self.public)

    def __repr__(self) -> str:
        return f"Identity(node={self.node!r})"

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Self:
        """New keys. In the field pass `os.urandom`; a simulation passes its seeded `random.randbytes`."""
        return cls(random_bytes(KEY_SIZE), random_bytes(KEY_SIZE))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises Corrupt."""
        try:
            keys = msgspec.json.decode(data, type=_Keys)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt("the identity is damaged", hint="restore it from a backup, or join again") from error
        self = cls(keys.seed, keys.link)
        if keys.version != 1 or keys.node != self.node or keys.check != self._check():
            raise Corrupt("the identity contradicts itself", hint="restore it from a backup, or join again")
        return self

    def to_bytes(self) -> bytes:
        """All of it, secrets too."""
        return msgspec.json.encode(_Keys(1, self.node, self._seed, self.link_secret, self._check()))

    def _check(self) -> bytes:
        return hashlib.sha256(b"msrt/identity-file/1\0" + self._seed + self.link_secret).digest()[:8]

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a file. Raises NotFound, Corrupt, KeysExposed (others may read it), StateUnusable."""
        data = read_private(path)
        if data is None:
            raise NotFound(f"no identity at {path}", hint="join with an invite: msrt invite")
        return cls.from_bytes(data)

    def save(self, path: Path) -> None:
        """To a file of mode 0600, replaced at once. Raises DiskFull, StateUnusable."""
        write_private(path, self.to_bytes())

    def derive(self, context: bytes) -> bytes:
        """32 secret bytes for one use, the same ones each time: HMAC-SHA256 of the context under this identity."""
        return hmac.digest(self._seed, b"msrt/derived/1\0" + context, "sha256")

    def sign(self, data: bytes, purpose: Purpose) -> bytes:
        """64 bytes over the purpose and the data."""
        return self._key.sign(_domain(purpose) + data)

    def signer(self, purpose: Purpose) -> Callable[[bytes], bytes]:
        """`sign` bound to one purpose: what a room gets that needs to sign nothing else."""
        domain, sign = _domain(purpose), self._key.sign
        return lambda data: sign(domain + data)


def verify(public: bytes, data: bytes, signature: bytes, purpose: Purpose) -> None:
    """Raises BadSignature unless `signature` is by the 32-byte Ed25519 key `public`, over `data`, for `purpose`."""
    if len(public) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        raise BadSignature(f"the {purpose} carries a key or signature of the wrong size")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _domain(purpose) + data)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the signature of the {purpose} does not match") from error


def link_public(secret: bytes) -> bytes:
    """The X25519 (CURVE) public key of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _domain(purpose: Purpose) -> bytes:
    return f"msrt/{purpose}/1\0".encode()
