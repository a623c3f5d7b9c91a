"""Secure aggregation: keys, shares and what is asked for them (see msrt.learning.secure_aggregation)."""

from __future__ import annotations

import msgspec

from msrt.protocol.messages.base import Session

__all__ = [
    "SecureKeys", "SecureMember", "SecureOut", "SecureReveal", "SecureRoster", "SecureShare", "SecureShares",
    "SecureUnmask",
]  # fmt: skip


class SecureKeys(Session, frozen=True, tag="secure.keys"):
    """Device to edge: my fresh public keys for one exchange, signed by my identity."""

    job: str
    session: str
    certificate: bytes
    cipher: bytes
    """X25519, 32 bytes: shares to me are sealed with it."""
    mask: bytes
    """X25519, 32 bytes: masks are agreed on with it."""
    commitment: bytes
    """SHA-256 of the seed of my own mask."""
    signature: bytes
    """Of session, cipher, mask and commitment, by the identity that the certificate names."""


class SecureMember(msgspec.Struct, frozen=True, array_like=True):
    """One device of an exchange, as its neighbours are told of it."""

    index: int
    certificate: bytes
    cipher: bytes
    mask: bytes
    commitment: bytes
    signature: bytes


class SecureRoster(Session, frozen=True, tag="secure.roster"):
    """Edge to device: who you are in this exchange, and your neighbours in it."""

    job: str
    session: str
    index: int
    count: int
    """Of all devices in it: their sum must not overflow."""
    neighbours: tuple[SecureMember, ...]


class SecureShare(msgspec.Struct, frozen=True, array_like=True):
    """A share, sealed or not."""

    index: int
    """Of the device that it is for, where a device sends it sealed; else of the one whose secret it is of."""
    data: bytes


class SecureShares(Session, frozen=True, tag="secure.shares"):
    """Device to edge: shares of my secrets, sealed for each neighbour. Edge to device: those for you, all there are."""

    job: str
    session: str
    shares: tuple[SecureShare, ...]


class SecureUnmask(Session, frozen=True, tag="secure.unmask"):
    """Edge to device: which of your neighbours are in the sum, and which dropped out after they had shared."""

    job: str
    session: str
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


class SecureReveal(Session, frozen=True, tag="secure.reveal"):
    """Device to edge: my shares of the survivors' own masks, and of the keys of those who dropped out."""

    job: str
    session: str
    seeds: tuple[SecureShare, ...]
    keys: tuple[SecureShare, ...]


class SecureOut(Session, frozen=True, tag="secure.out"):
    """Either way: the device takes no part in this exchange, or no longer, and why."""

    job: str
    session: str
    reason: str
