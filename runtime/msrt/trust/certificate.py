"""What the cloud says of a node, signed: who it is, what it may do, where it belongs. Checked offline by anyone."""

from __future__ import annotations

from typing import Final

import msgspec

from msrt.errors import BadSignature, NotEnrolled
from msrt.protocol.address import node_id
from msrt.trust.identity import KEY_SIZE, SIGNATURE_SIZE, Identity, Purpose, verify
from msrt.trust.roles import Role

__all__ = ["Certificate", "check_certificate", "check_proof", "issue", "prove"]

CERTIFICATE_LIMIT: Final = 16 * 1024
"""Bytes of a signed certificate."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One enrolled node. Labels are those at the time of issue; the journal holds the present ones."""

    node: str
    """Hash of `identity`."""
    role: str
    """cloud, edge, device, client or operator."""
    name: str
    identity: bytes
    """Ed25519 public key, 32 bytes."""
    link_key: bytes
    """X25519 (CURVE) public key, 32 bytes."""
    region: str = ""
    labels: dict[str, str] = {}
    issued: float = 0.0
    """Seconds since 1970."""
    serial: int = 0
    """Counts the cloud's certificates up; a node's highest one is in force."""
    root: bytes = b""
    """SHA-256 of the tree's first signed root: artifacts are signed under TUF here, whatever a parent says; empty: they
    were not when this was issued."""


def issue(cloud: Identity, certificate: Certificate) -> bytes:
    """The signed blob a node shows in its Hello: 64 bytes of signature, then the certificate."""
    body = msgspec.msgpack.encode(certificate)
    return cloud.sign(body, Purpose.CERTIFICATE) + body


def check_certificate(blob: bytes, cloud_public: bytes) -> Certificate:
    """The certificate in a blob signed by the cloud.

    Raises NotEnrolled (nothing there), BadSignature (another cloud's, damaged, or not of the key it names).
    """
    if not blob:
        raise NotEnrolled("no certificate was shown")
    if not SIGNATURE_SIZE < len(blob) <= CERTIFICATE_LIMIT:
        raise BadSignature(f"a certificate of {len(blob)} bytes")
    body = bytes(blob[SIGNATURE_SIZE:])
    verify(cloud_public, body, bytes(blob[:SIGNATURE_SIZE]), Purpose.CERTIFICATE)
    # Only the cloud's own bytes come as far as the decoder.
    try:
        certificate = msgspec.msgpack.decode(body, type=Certificate)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSignature("the certificate is of another msrt", hint="upgrade msrt") from error
    keys_fit = len(certificate.identity) == len(certificate.link_key) == KEY_SIZE
    if not keys_fit or certificate.node != node_id(certificate.identity):
        raise BadSignature("the certificate contradicts itself")
    if certificate.role not in set(Role):
        raise BadSignature(f"a certificate for the unknown role {certificate.role!r}", hint="upgrade msrt")
    return certificate


def prove(identity: Identity, invite: str) -> bytes:
    """The proof in an Enrol message: the identity's signature over the invite's id and its own link key."""
    return identity.sign(_claim(invite, identity.link_public), Purpose.ENROL)


def check_proof(invite: str, identity: bytes, link_key: bytes, proof: bytes) -> None:
    """Raises BadSignature unless the holder of `identity` claims `link_key` in the name of this invite."""
    if len(link_key) != KEY_SIZE:
        raise BadSignature(f"a link key of {len(link_key)} bytes")
    verify(identity, _claim(invite, link_key), proof, Purpose.ENROL)


def _claim(invite: str, link_key: bytes) -> bytes:
    return link_key + invite.encode()
