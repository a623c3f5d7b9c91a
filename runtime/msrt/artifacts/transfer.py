"""An artifact over a hop: a child calls `artifact.get`, the parent answers with a stream from the offset it asks for."""

from __future__ import annotations

import asyncio
from typing import Final

from msrt import errors
from msrt.artifacts.store import ArtifactStore, BlobSink, Fetch
from msrt.hop import Peer, Uplink

__all__ = ["fetch_from", "serve"]

WAIT_S: Final = 10.0
SILENCE_S: Final = 20.0


def fetch_from(uplink: Uplink) -> Fetch:
    """Brings artifacts from whatever parent the uplink has."""

    async def fetch(digest: str, sink: BlobSink) -> None:
        peer = await uplink.wait(WAIT_S)
        await peer.fetch("artifact.get", {"digest": digest}, sink, SILENCE_S)

    return fetch


async def serve(store: ArtifactStore, peer: Peer, params: dict[str, object], fetch: Fetch | None = None) -> object:
    """Answer `artifact.get`. With `fetch`, what is not here (or damaged) is brought from further up first.

    Raises NotFound, CallerError, and what the bringing raises.
    """
    digest, call = params.get("digest"), params.get("_call")
    if not isinstance(digest, str) or not isinstance(call, int):
        raise errors.CallerError("artifact.get needs a digest")
    data = await (store.get(digest, fetch) if fetch else store.read(digest))
    view = memoryview(data)

    async def read(offset: int, size: int) -> bytes:
        await asyncio.sleep(0)
        return view[offset : offset + size]  # type: ignore[return-value]

    await peer.push("artifact", {"digest": digest}, read, size=len(data), digest=digest, answers=call)
    return {"size": len(data)}
