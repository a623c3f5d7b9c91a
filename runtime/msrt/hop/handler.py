"""What a tier gives the hop: one object that hears what peers say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msrt.buffers import Buffer
from msrt.protocol.messages import Message, StreamOpen

if TYPE_CHECKING:
    from msrt.hop.peer import Peer

__all__ = ["Handler", "StreamSink"]


class StreamSink(Protocol):
    """Where an incoming stream goes."""

    have: int
    """Bytes already held from an earlier try: the stream resumes there."""

    async def write(self, offset: int, data: Buffer) -> None:
        """The next piece, in order. Raises what should cancel the stream (DiskFull, BadUpdate ...)."""

    async def complete(self, size: int, digest: str) -> None:
        """Everything came; verify it (raise Corrupt or BadUpdate to refuse). The sender is told after this returns."""

    def abort(self, error: Exception) -> None:
        """The stream ended early."""


class Handler(Protocol):
    """Called from the event loop. `message` must not block; `called`, `stored` may await."""

    def joined(self, peer: Peer) -> None:
        """A session is live (a resumed one is not announced again)."""

    def left(self, peer: Peer, error: Exception, *, final: bool) -> None:
        """The peer went silent (final=False: it may resume within its lease and is then `joined` again), or its
        session is over (final=True). `error` says why, also where this side closed it."""

    def message(self, peer: Peer, message: Message, frames: list[Buffer]) -> None:
        """A transient or session message."""

    async def called(self, peer: Peer, method: str, params: dict[str, object]) -> object:
        """Answer a call. Raise an MsrtError to refuse it."""

    def stream(self, peer: Peer, opened: StreamOpen) -> StreamSink:
        """A stream wants to come in. Raise an MsrtError to refuse it."""

    async def stored(self, peer: Peer, messages: list[Message]) -> None:
        """Durable messages came: return once they are on disk, deduplicated by their own ids."""
