"""Profile `mcu`: what a gateway and a microcontroller say to each other over a serial line or a byte stream.

A frame is `type, sequence, length, body, CRC-32`, stuffed so that it holds no zero (COBS: Cheshire and Baker,
"Consistent Overhead Byte Stuffing", 1999), between zeros. Noise costs a frame, never the line. One question is on its
way at a time: it is asked again until its answer comes, and the board answers a sequence that it has answered
with the same bytes, without doing it again. Only events come unasked. README.md, section 6.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from msrt.errors import FrameTooLarge, MalformedFrame
from msrt.protocol.mcu_messages import (
    CLASSES,
    DIGEST,
    VERSION,
    Ask,
    Chunk,
    Done,
    Event,
    Failed,
    Fault,
    Finish,
    Hello,
    Infer,
    Inferred,
    Kind,
    Lease,
    Load,
    McuMessage,
    Taken,
)

__all__ = [
    "BODY_LIMIT", "CHUNK", "DIGEST", "VERSION", "Ask", "Chunk", "Decoder", "Done", "Event", "Failed", "Fault", "Finish",
    "Frame", "Hello", "Infer", "Inferred", "Kind", "Lease", "Load", "McuMessage", "Taken", "decode", "encode", "tag_of",
]  # fmt: skip

BODY_LIMIT: Final = 1024
CHUNK: Final = 960
"""Bytes of a model, or of an input, in one frame."""
_HEAD: Final = struct.Struct("<BBH")
_CRC: Final = struct.Struct("<I")
_RAW_LIMIT: Final = _HEAD.size + BODY_LIMIT + _CRC.size
_STUFFED_LIMIT: Final = _RAW_LIMIT + _RAW_LIMIT // 254 + 1


# --- frames --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What a decoder found."""

    sequence: int
    message: McuMessage


def tag_of(digest: bytes) -> int:
    """How questions name a model: the first four bytes of its SHA-256."""
    return int.from_bytes(digest[:4], "little")


def encode(message: McuMessage, sequence: int) -> bytes:
    """A frame, zeros around it. Raises FrameTooLarge."""
    body = message.pack()
    if len(body) > BODY_LIMIT:
        raise FrameTooLarge(len(body), BODY_LIMIT, "frame for a microcontroller")
    raw = _HEAD.pack(message.kind, sequence & 0xFF, len(body)) + body
    return b"\0" + _stuff(raw + _CRC.pack(zlib.crc32(raw))) + b"\0"


def decode(stuffed: bytes) -> Frame:
    """What lies between two zeros. Raises MalformedFrame."""
    raw = _unstuff(stuffed)
    if len(raw) < _HEAD.size + _CRC.size or len(raw) > _RAW_LIMIT:
        raise MalformedFrame(f"a frame of {len(raw)} bytes")
    kind, sequence, length = _HEAD.unpack_from(raw)
    body = raw[_HEAD.size : -_CRC.size]
    if length != len(body) or _CRC.unpack(raw[-_CRC.size :])[0] != zlib.crc32(raw[: -_CRC.size]):
        raise MalformedFrame("a frame's checksum does not hold")
    found = CLASSES.get(kind)
    if found is None:
        raise MalformedFrame(f"a frame of unknown type {kind}")
    try:
        return Frame(sequence, found.unpack(body))
    except (struct.error, IndexError) as error:
        raise MalformedFrame(f"a body of {length} bytes is no {found.__name__}") from error


class Decoder:
    """Bytes in, whole frames out. What is damaged is dropped and counted."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overrun = False
        self.damaged = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that are complete now, in order."""
        found: list[Frame] = []
        parts = data.split(b"\0")
        for at, part in enumerate(parts):
            if len(self._pending) + len(part) > _STUFFED_LIMIT:
                self._overrun = True
                self._pending.clear()
            elif not self._overrun:
                self._pending += part
            if at < len(parts) - 1:
                self._close(found)
        return found

    def _close(self, found: list[Frame]) -> None:
        stuffed, self._overrun, overrun = bytes(self._pending), False, self._overrun
        self._pending.clear()
        if overrun:
            self.damaged += 1
        elif stuffed:
            try:
                found.append(decode(stuffed))
            except MalformedFrame:
                self.damaged += 1


def _stuff(raw: bytes) -> bytes:
    out = bytearray()
    for run in raw.split(b"\0"):
        for at in range(0, len(run) - 253, 254):
            out += b"\xff" + run[at : at + 254]
        rest = len(run) % 254
        out += bytes([rest + 1]) + run[len(run) - rest :]
    return bytes(out)


def _unstuff(stuffed: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(stuffed):
        size = stuffed[at]
        run = stuffed[at + 1 : at + size]
        if not size or len(run) != size - 1:
            raise MalformedFrame("a frame is stuffed wrongly")
        out += run
        at += size
        if size < 0xFF and at < len(stuffed):
            out += b"\0"
    return bytes(out)
