"""Frames of profile `mcu` (runtime/msrt/protocol/README.md, section 6) in MicroPython: COBS, CRC-32, zeros around."""

import binascii
import struct

BODY_LIMIT = 1024
RAW_LIMIT = 4 + BODY_LIMIT + 4
STUFFED_LIMIT = RAW_LIMIT + RAW_LIMIT // 254 + 1


def encode(kind: int, sequence: int, body: bytes) -> bytes:
    """A frame, zeros around it."""
    raw = struct.pack("<BBH", kind, sequence & 0xFF, len(body)) + body
    raw += struct.pack("<I", binascii.crc32(raw) & 0xFFFFFFFF)
    out = bytearray(1)
    for run in raw.split(b"\0"):
        while len(run) >= 254:
            out.append(255)
            out.extend(run[:254])
            run = run[254:]
        out.append(len(run) + 1)
        out.extend(run)
    out.append(0)
    return bytes(out)


def decode(stuffed: bytes) -> "tuple[int, int, bytes] | None":
    """(type, sequence, body) of what lies between two zeros; None where it is damaged."""
    raw, at = bytearray(), 0
    while at < len(stuffed):
        size = stuffed[at]
        run = stuffed[at + 1 : at + size]
        if not size or len(run) != size - 1:
            return None
        raw.extend(run)
        at += size
        if size < 255 and at < len(stuffed):
            raw.append(0)
    if not 8 <= len(raw) <= RAW_LIMIT:
        return None
    kind, sequence, length = struct.unpack_from("<BBH", raw, 0)
    (crc,) = struct.unpack_from("<I", raw, len(raw) - 4)
    if length != len(raw) - 8 or crc != binascii.crc32(memoryview(raw)[:-4]) & 0xFFFFFFFF:
        return None
    return kind, sequence, bytes(memoryview(raw)[4:-4])


class Decoder:
    """Bytes in, whole frames out. What is damaged is dropped: it will be said again."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overrun = False

    def feed(self, data: bytes) -> "list[tuple[int, int, bytes]]":
        """Frames that are complete now, in order."""
        found = []
        parts = data.split(b"\0")
        for at, part in enumerate(parts):
            if len(self._pending) + len(part) > STUFFED_LIMIT:
                self._overrun = True
                self._pending = bytearray()
            elif not self._overrun:
                self._pending.extend(part)
            if at < len(parts) - 1:
                frame = decode(bytes(self._pending)) if self._pending and not self._overrun else None
                self._pending, self._overrun = bytearray(), False
                if frame is not None:
                    found.append(frame)
        return found
