"""The certificate that HTTP and gRPC show: the operator's own files, taken anew when they change, or one made here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import structlog

from msrt.errors import InvalidConfig, words_of
from msrt.trust.tls import ServerCertificate, fingerprint

__all__ = ["ServerTls"]

log = structlog.get_logger()
LOOK_S: Final = 5.0
"""How soon a renewed certificate is shown."""
OWN: Final = "http"


class ServerTls:
    """`context` is what listeners use: a renewed certificate goes into it, and so into the next handshake."""

    def __init__(self, certificate: Path, key: Path, *, pin: bool = False) -> None:
        """Raises InvalidConfig when the files cannot be read, or do not belong together."""
        self._files = certificate, key
        self._seen = self._stamps()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._pin = pin
        self.pair: tuple[bytes, bytes]
        """Private key and certificate chain, PEM."""
        self._take()

    @classmethod
    def keep(cls, folder: Path, hosts: Iterable[str], wall: float) -> Self:
        """One that signs itself, made at the first call: callers pin its fingerprint."""
        ServerCertificate.keep(folder, OWN, hosts, wall)
        return cls(folder / f"{OWN}.crt", folder / f"{OWN}.key", pin=True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 for callers to pin; empty where an authority vouches for the certificate, which may be renewed."""
        return fingerprint(self.pair[1]) if self._pin else ""

    def refresh(self) -> bool:
        """Take files that changed; True if they did. What does not work is logged, and the former ones stay."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            self._take()
        except InvalidConfig as error:
            log.warning("tls.not_renewed", error=words_of(error))
            return False
        self._seen = stamps
        log.info("tls.renewed", certificate=str(self._files[0]))
        return True

    async def watch(self) -> None:
        """Refresh now and then, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.refresh()

    def _take(self) -> None:
        certificate, key = self._files
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
            self.context.load_cert_chain(certificate, key, _no_password)
            self.pair = key.read_bytes(), certificate.read_bytes()
        except ssl.SSLError as error:
            raise InvalidConfig(
                f"{certificate} and {key} are no certificate and its key: {error.reason or error}",
                hint="tls_cert and tls_key are PEM files, the key without a password",
            ) from error
        except (OSError, ValueError) as error:
            hint = "check tls_cert and tls_key"
            raise InvalidConfig(f"cannot read {certificate} and {key}: {error}", hint=hint) from error

    def _stamps(self) -> list[tuple[int, int]]:
        try:
            return [(file.stat().st_mtime_ns, file.stat().st_ino) for file in self._files]
        except OSError:
            return []


def _no_password() -> bytes:
    """Without this, OpenSSL would ask at the terminal."""
    return b""
