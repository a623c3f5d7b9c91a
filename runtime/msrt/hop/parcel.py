"""A message with a payload that may fit no packet: it is then the meta of a stream that carries the payload."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog

from msrt.buffers import Buffer, joined
from msrt.errors import MalformedFrame, MsrtError, words_of
from msrt.hop.gather import Gather
from msrt.hop.peer import Peer
from msrt.protocol.messages import Pulled, Push, StreamOpen

__all__ = ["PULL", "PUSH", "collect", "send"]

log = structlog.get_logger()
T = TypeVar("T", Push, Pulled)
PUSH: Final = "push"
PULL: Final = "pull"
HEADER: Final = 8 << 10
"""Room in a packet for the message itself."""
PARCEL_LIMIT: Final = 1 << 30


def send(peer: Peer, message: Push | Pulled, pieces: Sequence[Buffer]) -> None:
    """As a message, or in a stream that a task of the peer's session sends. What is lost is lost: who needs it asks.

    Raises Disconnected, Overloaded.
    """
    size = sum(map(len, pieces))
    if size + HEADER <= peer.limit:
        peer.send(message, tuple(pieces))
    else:
        peer.spawn(_stream(peer, message, pieces))


async def _stream(peer: Peer, message: Push | Pulled, pieces: Sequence[Buffer]) -> None:
    data, digest = await peer.world.offload(_whole, pieces)
    kind = PUSH if isinstance(message, Push) else PULL
    meta = msgspec.to_builtins(message)
    try:
        await peer.push(kind, meta, data, size=len(data), digest=digest)
    except MsrtError as error:
        log.info("parcel.lost", kind=kind, job=message.job, to=peer.node, error=words_of(error))


def _whole(pieces: Sequence[Buffer]) -> tuple[Buffer, str]:
    data = pieces[0] if len(pieces) == 1 else joined(pieces)
    return data, hashlib.sha256(data).hexdigest()


def collect(kind: type[T], peer: Peer, opened: StreamOpen, use: Callable[[Peer, T, list[Buffer]], Any]) -> Gather:
    """The sink of such a stream. Raises MalformedFrame."""
    try:
        message = msgspec.convert(opened.meta, kind)
    except msgspec.ValidationError as error:
        raise MalformedFrame(f"a malformed {opened.kind}: {error}") from None
    if not 0 <= opened.size <= PARCEL_LIMIT:
        raise MalformedFrame(f"a {opened.kind} of {opened.size} bytes")
    return Gather(f"a {opened.kind} of {message.job}", peer.world.offload, partial(_handed, use, peer, message))


async def _handed(use: Callable[[Peer, T, list[Buffer]], Any], peer: Peer, message: T, payload: Buffer) -> None:
    use(peer, message, [payload])
