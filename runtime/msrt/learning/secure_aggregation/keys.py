"""Keys of one device in one exchange: fresh, signed by its identity, checked by everybody who relies on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from msrt.errors import BadSignature
from msrt.learning.secure_aggregation.masks import public_of
from msrt.learning.secure_aggregation.shamir import SECRET_SIZE
from msrt.protocol.messages import SecureKeys, SecureMember
from msrt.trust.certificate import Certificate, check_certificate
from msrt.trust.identity import KEY_SIZE, Purpose, verify
from msrt.trust.roles import Role

__all__ = ["Me", "Secrets", "check_keys", "member_of"]


@dataclass(frozen=True)
class Me:
    """A device's identity, as far as it is needed here."""

    node: str
    certificate: bytes
    sign: Callable[[bytes], bytes]
    """For Purpose.SECURE."""
    cloud: bytes
    """The cloud's Ed25519 key: it says who is a device."""
    random: Callable[[int], bytes]


@dataclass(frozen=True)
class Secrets:
    """What one device keeps to itself for one exchange."""

    cipher: bytes = field(repr=False)
    """X25519 secret: what is sealed for me is opened with it."""
    mask: bytes = field(repr=False)
    """X25519 secret: masks are agreed on with it. Neighbours hold shares."""
    seed: bytes = field(repr=False)
    """Of my own mask. Neighbours hold shares."""

    @classmethod
    def fresh(cls, random: Callable[[int], bytes]) -> Secrets:
        return cls(random(SECRET_SIZE), random(SECRET_SIZE), random(SECRET_SIZE))

    def announce(self, me: Me, job: str, session: str) -> SecureKeys:
        """What all may know."""
        keys = public_of(self.cipher), public_of(self.mask), hashlib.sha256(self.seed).digest()
        return SecureKeys(job, session, me.certificate, *keys, me.sign(_claim(session, *keys)))


def member_of(index: int, keys: SecureKeys) -> SecureMember:
    """As its neighbours are told of it."""
    return SecureMember(index, keys.certificate, keys.cipher, keys.mask, keys.commitment, keys.signature)


def check_keys(session: str, keys: SecureKeys | SecureMember, cloud: bytes) -> Certificate:
    """Whose they are. Raises BadSignature, NotEnrolled unless a device of this cloud signed them for this exchange."""
    certificate = check_certificate(keys.certificate, cloud)
    if certificate.role != Role.DEVICE:
        raise BadSignature(f"keys for masks of a {certificate.role}")
    if not len(keys.cipher) == len(keys.mask) == len(keys.commitment) == KEY_SIZE:
        raise BadSignature("keys for masks of the wrong size")
    claim = _claim(session, keys.cipher, keys.mask, keys.commitment)
    verify(certificate.identity, claim, keys.signature, Purpose.SECURE)
    return certificate


def _claim(session: str, cipher: bytes, mask: bytes, commitment: bytes) -> bytes:
    return cipher + mask + commitment + session.encode()
