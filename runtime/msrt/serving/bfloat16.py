"""BF16 as the upper half of FP32, for those who read or write it as numbers. Pure; as all frames, little endian."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from msrt.buffers import Buffer

__all__ = ["narrowed", "widened"]


def widened(frame: Buffer) -> list[float]:
    """The numbers, exactly."""
    wide = array("I", [half << 16 for half in memoryview(frame).cast("B").cast("H")])
    return [float(one) for one in memoryview(wide).cast("B").cast("f")]


def narrowed(values: Sequence[float]) -> bytes:
    """The nearest BF16 of each, the even one of two. Raises OverflowError for what FP32 cannot hold."""
    wide = memoryview(struct.pack(f"<{len(values)}f", *values)).cast("I")
    return array("H", [min((one + 0x7FFF + (one >> 16 & 1)) >> 16, 0xFFFF) for one in wide]).tobytes()
