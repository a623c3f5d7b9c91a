"""API keys: what callers over HTTP and gRPC show instead of a certificate. Pure.

A key is `msrt_ID_SECRET`: a public id to find its record by, and 256 random bits of which only a hash is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from msrt.errors import CallerError, Unauthorized
from msrt.trust.roles import Role

__all__ = ["ApiKey", "Bucket", "KeyBook", "make_key"]

PREFIX: Final = "msrt_"
"""Tells people, and scanners for leaked secrets, what they look at."""
ID_CHARS: Final = 16
SECRET_SIZE: Final = 32
TEXT_CHARS: Final = len(PREFIX) + ID_CHARS + 1 + 43
"""43: 32 bytes in base64url without padding."""
NAME_LIMIT: Final = 64
ROLES: Final = frozenset({Role.CLIENT, Role.OPERATOR})
BURST_S: Final = 1.0
"""A key may save up so much of its rate."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a key: enough to recognise it, too little to use it."""

    name: str
    id: str
    """The part of the key that is no secret."""
    hash: bytes
    """SHA-256, 32 bytes. The secret has 256 random bits: a slow hash would add nothing but a way to keep us busy."""
    role: str
    """client or operator."""
    rate: float = 0.0
    """Requests per second at each edge; 0: any."""
    expires: float = 0.0
    """Seconds since 1970; 0: never."""
    created: float = 0.0
    """Seconds since 1970."""
    revoked: float = 0.0
    """Seconds since 1970; 0: it is in force."""

    def state(self, wall: float) -> str:
        """active, expired or revoked."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= wall else "active"


def make_key(
    name: str,
    role: str,
    random_bytes: Callable[[int], bytes],
    *,
    rate: float = 0.0,
    expires: float = 0.0,
    wall: float = 0.0,
) -> tuple[str, ApiKey]:
    """(the key's text, its record). The text exists only here. Raises CallerError."""
    if role not in ROLES:
        raise CallerError(f"a key has no role {role!r}", hint="use client or operator")
    if not name or len(name) > NAME_LIMIT or not name.isprintable() or name != name.strip():
        raise CallerError(f"{name[:NAME_LIMIT]!r} is no name for a key", hint=f"use 1 to {NAME_LIMIT} characters")
    if not 0 <= rate < float("inf"):
        raise CallerError(f"a rate of {rate} requests/s cannot be", hint="use a number above 0")
    if expires and not wall < expires < float("inf"):
        raise CallerError("the key would have expired already")
    ident = base64.b32encode(random_bytes(ID_CHARS * 5 // 8)).decode().lower()
    secret = base64.urlsafe_b64encode(random_bytes(SECRET_SIZE)).rstrip(b"=").decode()
    text = f"{PREFIX}{ident}_{secret}"
    return text, ApiKey(
        name=name, id=ident, hash=_hash(text.encode()), role=role, rate=rate, expires=expires, created=wall
    )


class KeyBook:
    """All keys of a tree, folded from the journal's entries."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.by_name: dict[str, ApiKey] = {}
        self._by_id: dict[bytes, ApiKey] = {}
        for key in keys:
            self.put(key)

    def put(self, key: ApiKey) -> None:
        """A key was made, or revoked. An earlier one of that name is forgotten."""
        former = self.by_name.get(key.name)
        if former is not None:
            self._by_id.pop(former.id.encode(), None)
        self.by_name[key.name] = key
        self._by_id[key.id.encode()] = key

    def find(self, text: bytes, wall: float) -> ApiKey:
        """Whose key this is. Raises Unauthorized: unknown, wrong, expired, revoked; the holder alone hears of the
        last two."""
        key = self._by_id.get(text[len(PREFIX) : len(PREFIX) + ID_CHARS])
        if key is None or not hmac.compare_digest(key.hash, _hash(text[: TEXT_CHARS + 1])):
            raise Unauthorized("the API key is not known here", hint="copy the whole of what msrt key create printed")
        if key.revoked:
            raise Unauthorized(f"the API key {key.name!r} was revoked", hint="ask for a new one: msrt key create")
        if key.expires and key.expires <= wall:
            raise Unauthorized(f"the API key {key.name!r} has expired", hint="ask for a new one: msrt key create")
        return key


class Bucket:
    """Tokens that fill up at `rate` a second; a request takes one."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self.burst = rate, max(1.0, rate * BURST_S)
        self._level, self._at = self.burst, now

    def take(self, now: float) -> float:
        """0 when a token was there, else the seconds until the next one."""
        level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now
        if level >= 1.0:
            self._level = level - 1.0
            return 0.0
        self._level = level
        return (1.0 - level) / self.rate


def _hash(text: bytes) -> bytes:
    return hashlib.sha256(b"msrt/api-key/1\0" + text).digest()
