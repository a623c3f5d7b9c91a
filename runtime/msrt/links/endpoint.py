"""The URL of a link, taken apart once."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from msrt.errors import InvalidAddress

__all__ = ["Endpoint", "parse_endpoint"]


class Endpoint(NamedTuple):
    """`port` is 0 where the URL names none; `path` is the socket file of ipc://."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The same as text, a literal IPv6 address in brackets."""
        if self.scheme == "ipc":
            return f"ipc://{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_endpoint(url: str, *schemes: str) -> Endpoint:
    """Raises InvalidAddress unless it is a well-formed URL of one of the schemes."""
    known = " or ".join(f"{scheme}://" for scheme in schemes)
    hint = f"a good one begins with {known} and names a host and a port up to 65535"
    try:
        parts = urlsplit(url)
        port = parts.port or 0
    except ValueError as error:
        raise InvalidAddress(f"{url!r} is no address: {error}", hint=hint) from error
    if parts.scheme not in schemes:
        raise InvalidAddress(f"{url!r} is no address for this link", hint=hint)
    if parts.scheme == "ipc":
        return Endpoint("ipc", "", 0, parts.netloc + parts.path)
    if not parts.hostname:
        raise InvalidAddress(f"{url!r} names no host", hint=hint)
    return Endpoint(parts.scheme, parts.hostname, port, "")
