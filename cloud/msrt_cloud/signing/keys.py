"""Private keys of the repository, by key id. Which of them speaks for which role, the signed metadata says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from msrt.errors import Corrupt, NotFound
from msrt.trust.private import read_private, write_private

__all__ = ["ROLES", "FolderRing", "KeyRing", "SeededRing", "load_keys"]

ROLES: Final = ("root", "targets", "models", "jobs", "agents", "images", "snapshot", "timestamp")
"""Each has a key of its own."""
MARK: Final = b"-----BEGIN"
SHOWN: Final = 12
"""Digits of a key id in a file's name."""


class KeyRing(Protocol):
    """The private keys that are here."""

    def signers(self) -> dict[str, CryptoSigner]:
        """All of them by key id, as they are now: an operator may take one away. Blocking."""

    def make(self, role: str) -> CryptoSigner:
        """A new one, kept. Blocking."""


class FolderRing:
    """One PEM file (PKCS 8) each, mode 0600: ROLE-KEYID.pem. Whoever takes the file away has taken the key away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signers(self) -> dict[str, CryptoSigner]:
        """Raises Corrupt, KeysExposed, StateUnusable."""
        found = [signer for path in sorted(self.folder.glob("*.pem")) for signer in load_keys(path)]
        return {signer.public_key.keyid: signer for signer in found}

    def make(self, role: str) -> CryptoSigner:
        """Raises DiskFull, StateUnusable."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        signer = CryptoSigner.generate_ed25519()
        write_private(self.path(role, signer.public_key.keyid), signer.private_bytes)
        return signer

    def remove(self, role: str, keyid: str) -> None:
        """Take a key out. Blocking."""
        self.path(role, keyid).unlink()

    def path(self, role: str, keyid: str) -> Path:
        """Where a role's key lies."""
        return self.folder / f"{role}-{keyid[:SHOWN]}.pem"


class SeededRing:
    """Keys that follow from a secret: for simulations, which must give the same bytes every time."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._made: list[str] = []
        self.gone: set[str] = set()
        """Key ids that somebody took away."""

    def signers(self) -> dict[str, CryptoSigner]:
        known = [self._signer(name) for name in dict.fromkeys([*(f"{role}/0" for role in ROLES), *self._made])]
        return {one.public_key.keyid: one for one in known if one.public_key.keyid not in self.gone}

    def make(self, role: str) -> CryptoSigner:
        name = f"{role}/{sum(made.startswith(role + '/') for made in self._made)}"
        self._made.append(name)
        return self._signer(name)

    def _signer(self, name: str) -> CryptoSigner:
        seed = hashlib.sha256(self._secret + b"/" + name.encode()).digest()
        return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def load_keys(path: Path) -> list[CryptoSigner]:
    """The keys of a PEM file. Raises NotFound, Corrupt, KeysExposed (others may read it), StateUnusable."""
    if path.suffix == ".pub":
        raise Corrupt(f"{path} is the public half of a key", hint=f"{path.with_suffix('')} signs")
    data = read_private(path)
    if data is None:
        raise NotFound(f"no keys at {path}")
    blocks = [MARK + block for block in data.split(MARK)[1:]]
    out = []
    for block in blocks or [data]:
        try:
            key = load_pem_private_key(block, None)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{path} is no private key without a password", hint="it is PEM, PKCS 8") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Corrupt(f"{path} is no Ed25519 key", hint="devices know no other kind")
        out.append(CryptoSigner(key))
    return out
