"""The same news for many devices: a few of them in each turn of the loop, in the order in which it was said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import structlog

from msrt import errors
from msrt.buffers import Buffer
from msrt.hop import Peer
from msrt.protocol.messages import Message
from msrt_edge.turns import Turns

__all__ = ["Broadcast", "Words"]

log = structlog.get_logger()
Words: TypeAlias = Callable[[Peer], tuple[Message, tuple[Buffer, ...]] | None]
"""What a device is told, made when its turn comes. None: nothing any more."""


class Broadcast:
    """One edge's. A device that cannot be told keeps nobody else waiting."""

    def __init__(self) -> None:
        self._turns = Turns()

    def tell(self, peers: Iterable[Peer], words: Words) -> None:
        """Say it to each of them that is here when its turn comes."""
        self._turns.add(partial(_tell, peer, words) for peer in peers)


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
