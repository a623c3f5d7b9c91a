"""Who asks over HTTP or gRPC, may he, and is he too fast. A key costs a lookup and a hash."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from msrt.errors import Forbidden, RateLimited, Unauthorized
from msrt.trust.api_keys import ApiKey, Bucket, KeyBook
from msrt.trust.roles import RIGHTS, Right, Role

__all__ = ["LOCAL", "Access", "Caller", "is_local"]

RELAYED: Final = frozenset({b"x-forwarded-for", b"forwarded", b"origin"})
"""A proxy, or a web page in somebody's browser: such a request comes from loopback, and its author need not."""
_NEAR: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})


class Caller(NamedTuple):
    """Whose request it is."""

    role: str
    key: str = ""
    """Name of the API key; empty for a caller on this machine without one."""


LOCAL: Final = Caller(Role.OPERATOR)
"""Who can reach a loopback listener has an account on this machine."""


class Access:
    """Admits callers. Revocation needs no word to it: it reads the book that the journal keeps.

    `trusts_loopback`: off where a proxy on this machine passes on what others ask.
    """

    def __init__(
        self,
        book: Callable[[], KeyBook] = KeyBook,
        *,
        now: Callable[[], float] = lambda: 0.0,
        wall: Callable[[], float] = lambda: 0.0,
        trusts_loopback: bool = True,
    ) -> None:
        self._book, self._now, self._wall = book, now, wall
        self._trusts_loopback = trusts_loopback
        self._buckets: dict[str, Bucket] = {}

    def check(self, headers: Mapping[bytes, bytes], peer: str, right: Right) -> Caller:
        """Who asks, by the request's headers (names in lower case) and the address of its other end (empty: unknown).

        Takes a token of the key's rate. Raises Unauthorized, RateLimited, Forbidden.
        """
        key = self._key(headers, peer)
        if key is None:
            return LOCAL  # an operator has every right
        if key.rate:
            self._pace(key)
        if right not in RIGHTS[key.role]:
            raise Forbidden(
                f"the API key {key.name!r} of role {key.role} may not {right}", hint="use an operator's key"
            )
        return Caller(key.role, key.name)

    def holds(self, headers: Mapping[bytes, bytes], peer: str, right: Right) -> bool:
        """Whether the caller of a request that goes on would still be let in. Takes no token."""
        try:
            key = self._key(headers, peer)
        except Unauthorized:
            return False
        return key is None or right in RIGHTS[key.role]

    def check_metadata(self, metadata: Iterable[tuple[str, str | bytes]], peer: str, right: Right) -> Caller:
        """The same for gRPC: `context.invocation_metadata()` and `context.peer()`. For every message of a stream, so
        that each counts and a revoked key's stream ends."""
        headers = {name.encode(): v if isinstance(v, bytes) else v.encode() for name, v in metadata}
        return self.check(headers, _grpc_host(peer), right)

    def _key(self, headers: Mapping[bytes, bytes], peer: str) -> ApiKey | None:
        """None for the operator on loopback."""
        if b"authorization" not in headers and b"x-api-key" not in headers:
            if self._trusts_loopback and is_local(peer) and RELAYED.isdisjoint(headers):
                return None
            raise Unauthorized("this server asks for an API key")
        return self._book().find(_given(headers), self._wall())

    def _pace(self, key: ApiKey) -> None:
        now = self._now()
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate != key.rate:
            known = self._book().by_name
            self._buckets = {k.id: b for k in known.values() if (b := self._buckets.get(k.id)) is not None}
            bucket = self._buckets[key.id] = Bucket(key.rate, now)
        wait = bucket.take(now)
        if wait:
            error = RateLimited(f"the API key {key.name!r} may ask {key.rate:g} times a second")
            error.retry_after = wait
            raise error


def is_local(peer: str) -> bool:
    """Whether an address is of this machine's loopback."""
    return peer in _NEAR or peer.startswith("127.")


def _given(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return token.strip()
    return headers.get(b"x-api-key", b"")


def _grpc_host(peer: str) -> str:
    """The address in ipv4:HOST:PORT, ipv6:[HOST]:PORT or ipv6:%5BHOST%5D:PORT; empty for anything else."""
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]")
    if kind not in ("ipv4", "ipv6"):
        return ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
