"""Artifacts over a hop. The child calls "artifact.get" {digest, suspect}; the parent answers with a stream of kind
"artifact" that begins where the child's partial copy ends. Operators send new ones up as such streams unasked.
"""

from __future__ import annotations

from typing import Final

from msrt.artifacts.sink import BlobSink
from msrt.artifacts.store import ArtifactStore, Fetch
from msrt.errors import CallerError, Corrupt, MalformedFrame, NotFound
from msrt.hop import Peer, Uplink
from msrt.protocol.messages import StreamOpen
from msrt.world.files import check_digest

__all__ = ["ARTIFACT", "GET", "IncomingArtifact", "fetch_from", "receive", "send", "serve"]

GET: Final = "artifact.get"
ARTIFACT: Final = "artifact"
PARENT_S: Final = 10.0
"""How long a fetch waits for a parent."""
SILENCE_S: Final = 60.0
"""How long a parent may send nothing (it may itself be fetching)."""


def fetch_from(uplink: Uplink) -> Fetch:
    """A `Fetch` that asks the present parent. Raises Disconnected, DeadlineExceeded, NotFound."""

    async def fetch(digest: str, _offset: int, sink: BlobSink) -> object:
        peer = await uplink.wait(PARENT_S)
        return await peer.fetch(GET, {"digest": digest, "suspect": sink.suspect}, sink, SILENCE_S)

    return fetch


async def serve(store: ArtifactStore, peer: Peer, params: dict[str, object], fetch: Fetch | None = None) -> object:
    """Answer "artifact.get". With `fetch`, what is not here (or is damaged) comes from our own parent first.

    Raises NotFound, CallerError, Corrupt.
    """
    digest, call = params.get("digest"), params.get("_call")
    if not isinstance(digest, str) or not isinstance(call, int):
        raise CallerError(f"{GET} needs a digest")
    check_digest(digest)
    suspect = params.get("suspect") is True
    for last in (False, True):
        try:
            async with store.keeping(digest):
                if fetch is not None and not store.has(digest):
                    await store.ensure(digest, fetch)
                async with store.lend(digest, suspect=suspect) as lent:
                    meta: dict[str, object] = {"digest": digest}
                    await peer.push(ARTIFACT, meta, await lent.source(), size=lent.size, digest=digest, answers=call)
                    store.sent_bytes += lent.size
                    return {"size": lent.size}
        except (Corrupt, NotFound):
            if fetch is None or last or store.has(digest):
                raise
    raise NotFound(f"artifact {digest[:12]} is not here")


async def send(store: ArtifactStore, peer: Peer, digest: str) -> None:
    """Push an artifact up or down unasked; returns when the peer has it whole. Raises NotFound, Corrupt."""
    async with store.lend(digest) as lent:
        await peer.push(ARTIFACT, {"digest": digest}, await lent.source(), size=lent.size, digest=digest)


def receive(store: ArtifactStore, opened: StreamOpen) -> IncomingArtifact:
    """Where an unasked stream of kind "artifact" goes. Raises MalformedFrame, InvalidAddress."""
    if opened.kind != ARTIFACT or not opened.digest or opened.size < 0:
        raise MalformedFrame("an artifact's stream names its digest and size")
    check_digest(opened.digest)
    return IncomingArtifact(store, opened.digest, opened.size)


class IncomingArtifact:
    """The sink of an unasked artifact: one that is here already is not written again."""

    def __init__(self, store: ArtifactStore, digest: str, size: int) -> None:
        self._store, self._digest, self._size = store, digest, size
        self._have = store.has(digest)
        store.room.touch(digest)
        self.have = size if self._have else store.blobs.partial(digest)
        self._sink = BlobSink(store, digest, self.have, size)

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if not self._have:
            async with self._store.lock(self._digest):
                await self._sink.write(offset, data)

    async def complete(self, size: int, digest: str) -> None:
        if not self._have:
            async with self._store.lock(self._digest):
                await self._sink.complete(size, digest)
            await self._store.room.trim(self._digest)

    def abort(self, error: Exception) -> None:
        self._sink.abort(error)
