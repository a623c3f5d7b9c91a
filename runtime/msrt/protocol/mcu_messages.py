"""What a gateway and its microcontroller say: the bodies of `mcu`'s frames, fixed words in little endian."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from msrt.errors import MalformedFrame

__all__ = [
    "CLASSES", "DIGEST", "VERSION", "Ask", "Chunk", "Done", "Event", "Failed", "Fault", "Finish", "Hello", "Infer",
    "Inferred", "Kind", "Lease", "Load", "McuMessage", "Taken",
]  # fmt: skip

VERSION: Final = 1
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
CLASSES: Final[dict[int, type[McuMessage]]] = {
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
