"""Which server is believed over https: one whose certificate we were told of, or that an authority vouches for."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msrt import errors
from msrt.trust.tls import fingerprint as fingerprint_of

__all__ = ["Trust", "is_near"]

LOOK_S: Final = 3.0


class Trust:
    """`fingerprint`: SHA-256 of certificates, hex, with or without colons; one of them must be shown. `ca`: a PEM file
    of authorities, instead of the system's. An edge's own fingerprint is learned from whoever told of the edge."""

    def __init__(self, fingerprint: str | Iterable[str] = (), ca: Path | str | None = None) -> None:
        """Raises InvalidAddress, InvalidConfig."""
        given = [fingerprint] if isinstance(fingerprint, str) else list(fingerprint)
        self.pins = frozenset(_hex(one) for one in given if one)
        self._ca = Path(ca) if ca else None
        if self._ca is not None:
            self._authorities()

    def _authorities(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise errors.InvalidConfig(f"{self._ca} holds no certificates: {error}") from error

    async def context(self, url: str, learned: str = "") -> ssl.SSLContext | None:
        """For connections to this URL; None where it is no https. Raises WrongServerKey, Disconnected."""
        if not url.startswith("https:"):
            return None
        pins = self.pins | ({_hex(learned)} if learned else set())
        if not pins:
            return self._authorities()
        shown = await _shown(url)
        if fingerprint_of(shown) not in pins:
            raise errors.WrongServerKey(
                f"{url} shows another certificate than the one we expect",
                hint="check the address; if that server was set up anew, take its new fingerprint",
            )
        # From here on it alone is believed, whatever it is named and whoever signed it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(shown))
        return context


async def _shown(url: str) -> bytes:
    """The certificate that a server shows, DER. Nothing is said to it."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(LOOK_S):
            _, writer = await asyncio.open_connection(host, port, ssl=blind)
    except (OSError, TimeoutError) as error:
        raise errors.Disconnected(f"{url} cannot be reached: {error}", hint="is it running?") from error
    try:
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return found.getpeercert(binary_form=True) or b""
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await writer.wait_closed()


def is_near(url: str) -> bool:
    """Whether what is said to this URL stays on this machine, or is encrypted."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _hex(text: str) -> str:
    found = text.replace(":", "").strip().lower().removeprefix("sha256")
    if len(found) != 64 or not set(found) <= set("0123456789abcdef"):
        raise errors.InvalidAddress(f"{text[:80]!r} is no fingerprint", hint="it is a SHA-256: 64 hex digits")
    return found
