"""Feeds the journal to the edges that follow it: what they lack, then what comes."""

from __future__ import annotations

import asyncio
import hashlib

import structlog

from msrt import errors
from msrt.hop import Peer
from msrt.journal.block import Block
from msrt.journal.facts import GLOBAL
from msrt.journal.writer import Writer
from msrt.protocol.messages import Follow, FollowRefused

__all__ = ["Feed"]

log = structlog.get_logger()
PAUSE_S = 0.01
PATIENCE_S = 30.0
AHEAD_BYTES = 4 << 20
"""Blocks that a follower has not acknowledged; the next one waits."""


class Feed:
    """All followers of this cloud."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._tails: dict[str, asyncio.Task[None]] = {}

    def follow(self, peer: Peer, follow: Follow) -> None:
        """A replica asks for what comes after its positions. It gets the global scope and its own region."""
        self.stop(peer.node)
        region = peer.certificate.region if peer.certificate else ""
        allowed = {scope: at for scope, at in follow.scopes.items() if scope in (GLOBAL, region)}
        asked = Follow(follow.log, follow.epoch, allowed)
        self._tails[peer.node] = asyncio.get_running_loop().create_task(self._tail(peer, asked))

    def stop(self, node: str) -> None:
        """Its session is over."""
        task = self._tails.pop(node, None)
        if task is not None:
            task.cancel()

    async def _room(self, peer: Peer) -> None:
        """Wait until the follower has acknowledged enough."""
        until = PATIENCE_S / PAUSE_S
        while peer.session.queued_bytes > AHEAD_BYTES and until > 0:
            until -= 1
            await asyncio.sleep(PAUSE_S)

    async def _tail(self, peer: Peer, follow: Follow) -> None:
        try:
            async for piece in self._writer.tail(follow):
                await self._room(peer)
                if isinstance(piece, Block):
                    peer.send(piece.message(), (piece.payload,))
                else:
                    digest = hashlib.sha256(piece.payload).hexdigest()
                    await peer.push("snapshot", piece.meta(), piece.payload, size=len(piece.payload), digest=digest)
        except errors.Disconnected:
            return
        except errors.MsrtError as error:
            log.warning("journal.follow_refused", edge=peer.name, code=error.code, error=errors.words_of(error))
            if peer.live:
                peer.send(FollowRefused(str(error)))
