"""What an operator may ask of the repository: the methods `trust.*`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from msrt.errors import InvalidConfig
from msrt.hop import Peer
from msrt.trust.tuf.names import Kind
from msrt_cloud.signing import offline
from msrt_cloud.signing.journal import described
from msrt_cloud.signing.rotation import check_roots

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["Desk", "KindName", "ListRequest", "ListSigned", "RootsImport"]

log = structlog.get_logger()


class RootsImport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt cloud keys import-root`."""

    roots: list[bytes]


class KindName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt cloud keys rotate`."""

    kind: str


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt cloud keys request`."""

    role: str
    public: list[bytes] = []
    """New keys for it, PEM; none: those in force sign."""
    threshold: int = 0


class ListSigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `msrt cloud keys import`."""

    request: bytes


class Desk:
    """Dispatched to by the cloud's table."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def show(self, _peer: Peer, _p: msgspec.Struct) -> object:
        """Every role: its keys, whether they are here, its version and until when it is good."""
        return await self._cloud.world.offload(self._cloud.signing.lists.rows)

    async def root(self, _peer: Peer, _p: msgspec.Struct) -> object:
        """The root in force, and for how long the next one would be good."""
        signing = self._cloud.signing
        return {"root": signing.roots[-1], "period_s": signing.periods.root}

    async def roots_import(self, peer: Peer, p: RootsImport) -> object:
        """New roots. Raises NotTrusted, Conflict where a key that must sign now is not here; then nothing changed."""
        signing, world = self._cloud.signing, self._cloud.world
        roots = await world.offload(check_roots, signing.roots[-1], p.roots, world.wall())
        await signing.take(roots)
        log.info("signing.root", version=signing.root.version, said_by=peer.name)
        return {"version": signing.root.version}

    async def rotate(self, peer: Peer, p: KindName) -> object:
        """A new key for a kind of artifacts; all of that kind is signed anew. Raises InvalidConfig, Conflict."""
        if p.kind not in set(Kind):
            raise InvalidConfig(f"{p.kind!r} is no kind of artifact", hint=f"one of {', '.join(Kind)}")
        keyid = await self._cloud.signing.rotate(Kind(p.kind))
        log.info("signing.rotated", kind=p.kind, said_by=peer.name)
        return {"keyid": keyid}

    async def request(self, _peer: Peer, p: ListRequest) -> object:
        """What is to be signed where the keys of a list are. Raises InvalidConfig, Corrupt, Conflict."""
        cloud = self._cloud
        keys = [offline.public_key(pem, f"key {number}") for number, pem in enumerate(p.public, 1)]
        images = described(cloud.writer.state)
        request = await cloud.world.offload(cloud.signing.lists.request, p.role, images, keys, p.threshold)
        return offline.write(request)

    async def accept(self, peer: Peer, p: ListSigned) -> object:
        """A list that was signed elsewhere. Raises Corrupt, NotTrusted, Conflict; then nothing changed."""
        cloud = self._cloud
        request = await cloud.world.offload(offline.read, p.request, "what was sent")
        needed = {offline.path_of(image) for image in described(cloud.writer.state)}
        version = await cloud.signing.accept(request, needed)
        log.info("signing.accepted", role=request.role, version=version, said_by=peer.name)
        return {"role": request.role, "version": version}
