"""Profile `mcu`: what a gateway and a microcontroller say to each other over a serial line or a byte stream.

A frame is `type, sequence, length, body, CRC-32`, stuffed so that it holds no zero (COBS: Cheshire and Baker,
"Consistent Overhead Byte Stuffing", 1999), between zeros. Noise costs a frame, never the line. One question is on its
way at a time: it is asked again until its answer comes, and the board answers a sequence that it has answered
with the same bytes, without doing it again. Only events come unasked. README.md, section 6.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar, Final

from msrt.errors import FrameTooLarge, MalformedFrame

__all__ = [
    "BODY_LIMIT", "CHUNK", "VERSION", "Ask", "Chunk", "Decoder", "Done", "Event", "Failed", "Fault", "Finish", "Frame",
    "Hello", "Infer", "Inferred", "Kind", "Lease", "Load", "McuMessage", "Taken", "decode", "encode", "tag_of",
]  # fmt: skip

VERSION: Final = 1
BODY_LIMIT: Final = 1024
CHUNK: Final = 960
"""Bytes of a model, or of an input, in one frame."""
_HEAD: Final = struct.Struct("<BBH")
_CRC: Final = struct.Struct("<I")
_RAW_LIMIT: Final = _HEAD.size + BODY_LIMIT + _CRC.size
_STUFFED_LIMIT: Final = _RAW_LIMIT + _RAW_LIMIT // 254 + 1
DIGEST: Final = 32
_TEXT_LIMIT: Final = 64


class Kind(enum.IntEnum):
    """Type of a frame: those of the gateway are below 64."""

    ASK = 1
    LEASE = 2
    LOAD = 3
    CHUNK = 4
    FINISH = 5
    INFER = 6
    TAKEN = 7
    HELLO = 65
    DONE = 66
    INFERRED = 67
    EVENT = 68
    FAILED = 69


class Fault(enum.IntEnum):
    """Why a board did not do it."""

    MALFORMED = 1
    NO_LEASE = 2
    NO_MODEL = 3
    """None, or another one than the question was for."""
    NO_ROOM = 4
    DIGEST = 5
    """What arrived is not what was announced."""
    NOT_A_MODEL = 6
    """Another version, an operator it lacks, damaged."""
    OUT_OF_ORDER = 7


# --- messages ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """Gateway: who are you? A board that hears it forgets its lease."""

    version: int = VERSION
    kind: ClassVar[Kind] = Kind.ASK

    def pack(self) -> bytes:
        return struct.pack("<B", self.version)

    @classmethod
    def unpack(cls, body: bytes) -> Ask:
        return cls(*struct.unpack("<B", body))


@dataclass(frozen=True)
class Hello:
    """Board: the answer to `Ask`."""

    version: int
    boot: int
    """Differs from start to start, 32 bits."""
    flash: int
    """Bytes for a model."""
    ram: int
    """Bytes for its tensors."""
    digest: bytes
    """SHA-256 of the model that it holds; zeros: none."""
    serial: str
    board: str
    firmware: str
    sensor: str
    """What its own readings are of; empty: it has no sensor."""
    kind: ClassVar[Kind] = Kind.HELLO
    _fixed: ClassVar[struct.Struct] = struct.Struct("<BIII32s")

    def pack(self) -> bytes:
        fixed = self._fixed.pack(self.version, self.boot, self.flash, self.ram, self.digest)
        return fixed + b"".join(_text(text) for text in (self.serial, self.board, self.firmware, self.sensor))

    @classmethod
    def unpack(cls, body: bytes) -> Hello:
        version, boot, flash, ram, digest = cls._fixed.unpack_from(body)
        texts, at = [], cls._fixed.size
        for _ in range(4):
            text, at = _text_at(body, at)
            texts.append(text)
        return cls(version, boot, flash, ram, digest, *texts)


@dataclass(frozen=True)
class Lease:
    """Gateway: you serve for so long; said again before it ends. `Done` with the board's boot."""

    epoch: int
    lease_ms: int
    sense_ms: int
    """Between two readings of the board's own sensor; 0: none."""
    kind: ClassVar[Kind] = Kind.LEASE

    def pack(self) -> bytes:
        return struct.pack("<III", self.epoch, self.lease_ms, self.sense_ms)

    @classmethod
    def unpack(cls, body: bytes) -> Lease:
        return cls(*struct.unpack("<III", body))


@dataclass(frozen=True)
class Load:
    """Gateway: a model of so many bytes follows, which needs `arena` bytes of RAM. The one before is gone. `Done`."""

    size: int
    arena: int
    kind: ClassVar[Kind] = Kind.LOAD

    def pack(self) -> bytes:
        return struct.pack("<II", self.size, self.arena)

    @classmethod
    def unpack(cls, body: bytes) -> Load:
        return cls(*struct.unpack("<II", body))


@dataclass(frozen=True)
class Chunk:
    """Gateway: bytes of the model, in order. `Done` with how many are there."""

    offset: int
    data: bytes
    kind: ClassVar[Kind] = Kind.CHUNK

    def pack(self) -> bytes:
        return struct.pack("<I", self.offset) + self.data

    @classmethod
    def unpack(cls, body: bytes) -> Chunk:
        return cls(_number(body, 0), body[4:])


@dataclass(frozen=True)
class Finish:
    """Gateway: that was all, and this is its SHA-256. `Done` once it is verified and ready."""

    digest: bytes
    kind: ClassVar[Kind] = Kind.FINISH

    def pack(self) -> bytes:
        return struct.pack("<32s", self.digest)

    @classmethod
    def unpack(cls, body: bytes) -> Finish:
        return cls(*struct.unpack("<32s", body))


@dataclass(frozen=True)
class Infer:
    """Gateway: a piece of an input of `total` bytes for the model `tag`. `Done`, and `Inferred` for the last one."""

    tag: int
    total: int
    offset: int
    data: bytes
    kind: ClassVar[Kind] = Kind.INFER

    def pack(self) -> bytes:
        return struct.pack("<III", self.tag, self.total, self.offset) + self.data

    @classmethod
    def unpack(cls, body: bytes) -> Infer:
        return cls(_number(body, 0), _number(body, 4), _number(body, 8), body[12:])


@dataclass(frozen=True)
class Inferred:
    """Board: the output, and how long it took."""

    compute_us: int
    data: bytes
    kind: ClassVar[Kind] = Kind.INFERRED

    def pack(self) -> bytes:
        return struct.pack("<I", self.compute_us) + self.data

    @classmethod
    def unpack(cls, body: bytes) -> Inferred:
        return cls(_number(body, 0), body[4:])


@dataclass(frozen=True)
class Event:
    """Board: what its model said of a reading. Said again until `Taken` answers; `dropped` had no room meanwhile."""

    number: int
    """Counts from 1 in each boot."""
    tag: int
    uptime_ms: int
    reading: int
    dropped: int
    best: int
    """Which output is the largest."""
    data: bytes
    """The outputs, the first 64 of them where there are more."""
    kind: ClassVar[Kind] = Kind.EVENT
    _fixed: ClassVar[struct.Struct] = struct.Struct("<6I")

    def pack(self) -> bytes:
        fixed = (self.number, self.tag, self.uptime_ms, self.reading, self.dropped, self.best)
        return self._fixed.pack(*fixed) + self.data

    @classmethod
    def unpack(cls, body: bytes) -> Event:
        number, tag, uptime_ms, reading, dropped, best = cls._fixed.unpack_from(body)
        return cls(number, tag, uptime_ms, reading, dropped, best, body[cls._fixed.size :])


@dataclass(frozen=True)
class Taken:
    """Gateway: the event is on disk. Not answered."""

    number: int
    kind: ClassVar[Kind] = Kind.TAKEN

    def pack(self) -> bytes:
        return struct.pack("<I", self.number)

    @classmethod
    def unpack(cls, body: bytes) -> Taken:
        return cls(*struct.unpack("<I", body))


@dataclass(frozen=True)
class Done:
    """Board: it is done."""

    value: int = 0
    kind: ClassVar[Kind] = Kind.DONE

    def pack(self) -> bytes:
        return struct.pack("<I", self.value)

    @classmethod
    def unpack(cls, body: bytes) -> Done:
        return cls(*struct.unpack("<I", body))


@dataclass(frozen=True)
class Failed:
    """Board: it is not, and why (see Fault; an unknown one keeps its text)."""

    code: int
    text: str
    kind: ClassVar[Kind] = Kind.FAILED

    def pack(self) -> bytes:
        return struct.pack("<H", self.code) + _text(self.text)

    @classmethod
    def unpack(cls, body: bytes) -> Failed:
        return cls(body[0] | body[1] << 8, _text_at(body, 2)[0])


McuMessage = Ask | Hello | Lease | Load | Chunk | Finish | Infer | Inferred | Event | Taken | Done | Failed
_CLASSES: Final[dict[int, type[McuMessage]]] = {
    cls.kind: cls for cls in (Ask, Hello, Lease, Load, Chunk, Finish, Infer, Inferred, Event, Taken, Done, Failed)
}


def _number(body: bytes, at: int) -> int:
    """32 bits. Raises IndexError where the body ends before."""
    return body[at] | body[at + 1] << 8 | body[at + 2] << 16 | body[at + 3] << 24


def _text(text: str) -> bytes:
    data = text.encode()[:_TEXT_LIMIT]
    return bytes([len(data)]) + data


def _text_at(body: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + body[at]
    if end > len(body):
        raise MalformedFrame("a text runs over the end of its frame")
    return body[at + 1 : end].decode(errors="replace"), end


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
    found = _CLASSES.get(kind)
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
