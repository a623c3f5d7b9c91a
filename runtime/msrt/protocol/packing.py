"""Many frames as one payload, for links that carry one (MQTT): u8 count, a u32 little-endian length each, the bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from msrt.buffers import Buffer
from msrt.errors import CallerError, MalformedFrame

__all__ = ["MAX_FRAMES", "frame_size", "pack_frames", "unpack_frames"]

MAX_FRAMES: Final = 255
"""Frames in one packet, frame 0 included (MQTT's packing counts them in a byte)."""

_LENGTH: Final = struct.Struct("<I")


def pack_frames(frames: Sequence[Buffer]) -> bytes:
    """All frames of a packet as one payload: u8 count, a u32 little-endian length each, then their bytes."""
    if not 0 < len(frames) <= MAX_FRAMES:
        raise CallerError(f"a packet has 1 to {MAX_FRAMES} frames, not {len(frames)}")
    head = struct.pack(f"<B{len(frames)}I", len(frames), *(frame_size(frame) for frame in frames))
    return b"".join((head, *frames))


def unpack_frames(payload: Buffer) -> list[Buffer]:
    """The frames in a packed payload, as views into it. Raises MalformedFrame."""
    view = memoryview(payload)
    count = view[0] if view else 0
    start = 1 + 4 * count
    if not 0 < count <= MAX_FRAMES or len(view) < start:
        raise MalformedFrame("a packed packet is shorter than its table of frames")
    frames: list[Buffer] = []
    end = start
    for (length,) in _LENGTH.iter_unpack(view[1:start]):
        frames.append(view[end : end + length])
        end += length
    if end != len(view):
        raise MalformedFrame(f"a packed packet of {len(view)} bytes says it has {end}")
    return frames


def frame_size(frame: Buffer) -> int:
    """Bytes in a frame."""
    return frame.nbytes if type(frame) is memoryview else len(frame)
