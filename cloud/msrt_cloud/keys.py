"""API keys as the operator makes, sees and revokes them. Each change is a fact that every edge follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from msrt import errors
from msrt.hop import Peer
from msrt.journal.facts import ApiKeySet, Entry
from msrt.journal.state import State
from msrt.trust.api_keys import ApiKey, KeyBook, make_key

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["KeyCreate", "KeyName", "Keys"]

DAY_S = 86_400.0
MAX_KEYS = 10_000
"""Every edge holds all of them in memory."""


class KeyCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt key create`."""

    name: str
    role: str
    rate: float = 0.0
    days: float = 0.0
    """Until it expires; 0: never."""


class KeyName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key."""

    name: str


class Keys:
    """The methods `key.*`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    @property
    def _book(self) -> KeyBook:
        return self._cloud.writer.state.api_keys

    async def create(self, peer: Peer, p: KeyCreate) -> object:
        """A new key; its text is in this answer and nowhere else. Raises Conflict, CallerError."""
        wall = self._cloud.world.wall()
        if p.days < 0:
            raise errors.CallerError("a key cannot expire before it is made")
        text, key = make_key(
            p.name, p.role, self._cloud.world.random.randbytes, rate=p.rate,
            expires=wall + p.days * DAY_S if p.days else 0.0, wall=wall,
        )  # fmt: skip

        def decide(state: State) -> list[Entry]:
            known = state.api_keys.by_name.get(p.name)
            if known is not None and known.state(wall) == "active":
                hint = f"msrt key revoke {p.name}, or take another name"
                raise errors.Conflict(f"there is a key {p.name!r} already", hint=hint)
            if known is None and len(state.api_keys.by_name) >= MAX_KEYS:
                hint = "take the name of one that was revoked: msrt key list"
                raise errors.Conflict(f"there are {MAX_KEYS} keys already", hint=hint)
            return [ApiKeySet(key, peer.name, wall)]

        await self._cloud.writer.decide(decide)
        return {"key": text, "name": key.name}

    async def rows(self, _peer: Peer, _p: object) -> object:
        """All keys, the revoked and expired too, without what could open anything."""
        wall = self._cloud.world.wall()
        return [_row(key, wall) for _, key in sorted(self._book.by_name.items())]

    async def revoke(self, peer: Peer, p: KeyName) -> object:
        """From now on nobody gets in with it; an edge that is away hears of it when it comes back. Raises NotFound."""
        key = self._book.by_name.get(p.name)
        if key is None:
            raise errors.NotFound(f"there is no key {p.name!r}", hint="msrt key list")
        wall = self._cloud.world.wall()
        if not key.revoked:
            revoked = msgspec.structs.replace(key, revoked=wall)
            await self._cloud.writer.append(ApiKeySet(revoked, peer.name, wall))
        return {"name": key.name}


def _row(key: ApiKey, wall: float) -> dict[str, object]:
    return {
        "name": key.name, "role": key.role, "state": key.state(wall), "rate": key.rate, "id": key.id,
        "created": key.created, "expires": key.expires or None,
    }  # fmt: skip
