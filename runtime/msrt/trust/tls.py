"""What our own listeners need: a self-signed certificate and its fingerprint, and the MQTT broker's password lines."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from msrt.errors import Corrupt
from msrt.trust.private import read_private, write_private

__all__ = ["ServerCertificate", "fingerprint", "mosquitto_password"]

VALID_DAYS: Final = 3650
"""Callers trust the fingerprint that they were told, not the date: a lapsed date would only break them."""
SALT_SIZE: Final = 12
ITERATIONS: Final = 101
"""mosquitto's own default. Our passwords are random bytes of 128 bits and more; a slow hash adds nothing."""


class ServerCertificate(NamedTuple):
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 hex digits."""
        return fingerprint(self.certificate)

    @classmethod
    def make(cls, hosts: Iterable[str], wall: float) -> Self:
        """A new one for these host names and addresses, valid from a day before `wall` (seconds since 1970).

        P-256, as every TLS stack on small devices has it. The key comes from the system's random source.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "msrt")])
        start = dt.datetime.fromtimestamp(wall, dt.UTC) - dt.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=VALID_DAYS))
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    @classmethod
    def keep(cls, folder: Path, name: str, hosts: Iterable[str], wall: float) -> Self:
        """The one in `folder` (NAME.crt, NAME.key), made at the first call: its fingerprint is what others know.

        Raises DiskFull, StateUnusable, KeysExposed.
        """
        certificate = read_private(folder / f"{name}.crt", secret=False)
        key = read_private(folder / f"{name}.key")
        if certificate and key:
            return cls(certificate, key)
        made = cls.make(hosts, wall)
        write_private(folder / f"{name}.key", made.key)
        write_private(folder / f"{name}.crt", made.certificate)
        return made


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate, PEM or DER, 64 hex digits. Raises Corrupt."""
    if certificate.lstrip().startswith(b"-----BEGIN"):
        try:
            certificate = ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))
        except ValueError as error:
            raise Corrupt("not a PEM certificate") from error
    return hashlib.sha256(certificate).hexdigest()


def mosquitto_password(password: str, salt: bytes) -> str:
    """The hash in a line `USER:HASH` of mosquitto's password_file: $7$ITERATIONS$SALT$PBKDF2-HMAC-SHA512.

    `salt`: 12 random bytes.
    """
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
