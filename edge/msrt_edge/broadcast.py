"""The same news for many devices: a few of them in each turn of the loop, in the order in which it was said."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.protocol.messages import Message

__all__ = ["AT_ONCE", "Broadcast", "Words"]

log = structlog.get_logger()
AT_ONCE: Final = 24
"""Devices told in one turn: to encode a message for each takes some 60 us."""
Words: TypeAlias = Callable[[Peer], tuple[Message, tuple[Buffer, ...]] | None]
"""What a device is told, made when its turn comes. None: nothing any more."""


class Broadcast:
    """One edge's. A device that cannot be told keeps nobody else waiting."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Peer, Words]] = deque()
        self._later: asyncio.Handle | None = None

    def tell(self, peers: Iterable[Peer], words: Words) -> None:
        """Say it to each of them that is here when its turn comes; where they are few that is now."""
        self._waiting.extend((peer, words) for peer in peers)
        if self._later is None:
            self._some()

    def _some(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            _tell(*self._waiting.popleft())
        self._later = asyncio.get_running_loop().call_soon(self._some) if self._waiting else None


def _tell(peer: Peer, words: Words) -> None:
    said = words(peer) if peer.live else None
    if said is None:
        return
    message, frames = said
    try:
        peer.send(message, frames)
    except errors.MsrtError as error:
        what = type(message).__name__
        log.warning("device.not_told", device=peer.name, what=what, error=errors.words_of(error))
