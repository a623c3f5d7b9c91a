"""Blocks and snapshots: the signed pieces in which a journal travels and lies on disk.

A block holds entries of one scope from one appended batch, `prev` names the scope's entry before it: that is how a gap
is seen although offsets count over all scopes. Its payload is a msgpack array of [offset, packed entry]; entries stay
packed inside, so that blocks can be joined and cut without reading them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from msrt.buffers import Buffer
from msrt.errors import FrameTooLarge, MalformedFrame
from msrt.journal.facts import Entry, unpack_entry
from msrt.journal.state import Facts
from msrt.protocol import wire
from msrt.protocol.messages import JournalBlock

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_ENTRIES",
    "Block",
    "Packed",
    "Sign",
    "Snapshot",
    "Verify",
    "cut",
    "entries_of",
]

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], None]
"""(data, signature); raises BadSignature."""
Packed = tuple[int, bytes]
"""An offset and its packed entry."""

BLOCK_ENTRIES: Final = 512
"""Reading and folding a block is to take no more than about a millisecond of the event loop."""
BLOCK_BYTES: Final = 256 << 10
"""Packed entries in one block; with its header it fits a packet of 1 MiB many times over."""
SNAPSHOT_LIMIT: Final = 256 << 20

_payload: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
_chunks: Final = msgspec.msgpack.Decoder(list[bytes])
_encode: Final = msgspec.msgpack.Encoder().encode


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Entries of one scope, signed. On disk as it is; fields may be added at the end."""

    log: str
    epoch: int
    scope: str
    prev: int
    first: int
    last: int
    signature: bytes
    payload: bytes

    @classmethod
    def make(cls, log: str, epoch: int, scope: str, prev: int, packed: Sequence[Packed], sign: Sign) -> Block:
        """Seal entries; `packed` is in order and not empty."""
        payload = _encode(packed)
        first, last = packed[0][0], packed[-1][0]
        return cls(
            log, epoch, scope, prev, first, last, sign(_signed(log, epoch, scope, prev, first, last, payload)), payload
        )

    @classmethod
    def received(cls, message: JournalBlock, payload: Buffer) -> Block:
        """From the message and the frame beside it. Checked by nobody yet."""
        m = message
        return cls(m.log, m.epoch, m.scope, m.prev, m.first, m.last, m.signature, bytes(payload))

    def message(self) -> JournalBlock:
        """What travels; the payload goes in the frame beside it."""
        return JournalBlock(self.log, self.epoch, self.scope, self.prev, self.first, self.last, self.signature)

    def check(self, verify: Verify) -> None:
        """Raises BadSignature."""
        verify(
            _signed(self.log, self.epoch, self.scope, self.prev, self.first, self.last, self.payload), self.signature
        )

    @property
    def packed(self) -> list[Packed]:
        """The entries, still packed. Only for bytes of our own disk, or after `check`."""
        return _payload.decode(self.payload) if self.payload else []

    def entries(self) -> Facts:
        """The entries. Raises MalformedFrame for a payload that contradicts the header or is of a newer msrt."""
        try:
            found = [(offset, unpack_entry(data)) for offset, data in self.packed]
        except msgspec.MsgspecError as error:
            raise MalformedFrame(f"a journal block's payload cannot be read: {error}") from error
        offsets = [offset for offset, _ in found]
        ends_fit = bool(offsets) and offsets[0] == self.first and offsets[-1] == self.last and self.prev < self.first
        if not ends_fit or any(a >= b for a, b in pairwise(offsets)):
            raise MalformedFrame(f"a journal block says {self.first} to {self.last} and holds something else")
        return found


def _signed(log: str, epoch: int, scope: str, prev: int, first: int, last: int, payload: bytes) -> bytes:
    return _encode(("block", log, epoch, scope, prev, first, last, hashlib.sha256(payload).digest()))


class Snapshot(msgspec.Struct, frozen=True):
    """The living facts of one scope up to `offset`: what a replica loads that is behind the journal's tail."""

    log: str
    epoch: int
    scope: str
    offset: int
    signature: bytes
    payload: bytes
    """A msgpack array of chunks, each a block's payload."""

    @classmethod
    def make(cls, log: str, epoch: int, scope: str, offset: int, chunks: Sequence[bytes], sign: Sign) -> Snapshot:
        payload = _encode(chunks)
        signature = sign(_encode(("snapshot", log, epoch, scope, offset, hashlib.sha256(payload).digest())))
        return cls(log, epoch, scope, offset, signature, payload)

    def meta(self) -> dict[str, object]:
        """The meta of the stream (kind "snapshot") that carries the payload."""
        return {name: getattr(self, name) for name in ("log", "epoch", "scope", "offset", "signature")}

    @classmethod
    def received(cls, meta: dict[str, object], payload: Buffer) -> Snapshot:
        """From a stream. Raises MalformedFrame; the signature is checked by nobody yet."""
        try:
            return msgspec.convert({**meta, "payload": bytes(payload)}, cls, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise MalformedFrame(f"not a journal snapshot: {error}") from error

    def check(self, verify: Verify) -> None:
        """Raises BadSignature."""
        digest = hashlib.sha256(self.payload).digest()
        verify(_encode(("snapshot", self.log, self.epoch, self.scope, self.offset, digest)), self.signature)

    def chunks(self) -> list[bytes]:
        """After `check`. Raises MalformedFrame."""
        if len(self.payload) > SNAPSHOT_LIMIT:
            raise FrameTooLarge(len(self.payload), SNAPSHOT_LIMIT, "journal snapshot")
        try:
            return _chunks.decode(self.payload)
        except msgspec.MsgspecError as error:
            raise MalformedFrame(f"a journal snapshot cannot be read: {error}") from error


def cut(packed: Iterable[Packed]) -> Iterator[list[Packed]]:
    """Pieces that fit a block."""
    piece: list[Packed] = []
    size = 0
    for item in packed:
        if piece and (len(piece) == BLOCK_ENTRIES or size + len(item[1]) > BLOCK_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += len(item[1])
    if piece:
        yield piece


def chunks_of(facts: Facts) -> Iterator[bytes]:
    """Facts as the chunks of a snapshot, made one by one so that a thread which writes many lets others run."""
    for piece in cut((offset, wire.pack(entry)) for offset, entry in facts):
        yield _encode(piece)


def entries_of(payload: bytes) -> list[tuple[int, Entry]]:
    """A chunk's entries: our own disk's bytes, or signed ones. Raises MalformedFrame."""
    try:
        return [(offset, unpack_entry(data)) for offset, data in _payload.decode(payload)]
    except msgspec.MsgspecError as error:
        raise MalformedFrame(f"a journal snapshot cannot be read: {error}") from error
