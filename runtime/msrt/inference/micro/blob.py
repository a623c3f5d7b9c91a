"""The blob: what a microcontroller is given of a model, byte for byte. README.md beside this has the layout.

All numbers are little endian, every section begins at a multiple of four. The board gets the first `board_bytes`;
what follows is a note for the host.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import astuple, dataclass, field, fields
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from msrt.buffers import Buffer
from msrt.errors import InvalidModel
from msrt.protocol.messages import TensorSpec

__all__ = ["MAGIC", "VERSION", "Blob", "Code", "Note", "Op", "is_blob", "pack_blob", "read_blob"]

MAGIC: Final = b"MSRM"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sHH4I2I2IfifiII")
"""magic, version, header bytes, board bytes, CRC-32 of board bytes from 16 on, arena bytes, operators, input offset and
bytes, output offset and bytes, input scale and zero point, output scale and zero point, offset of the operators, 0."""
CRC_FROM: Final = 16
RECORD: Final = struct.Struct("<32i")
LIMIT: Final = 4 << 20
"""Bytes of a blob: more than any microcontroller keeps."""
MAX_OPS: Final = 1024


class Code(enum.IntEnum):
    """What an operator does."""

    DENSE = 1
    CONV = 2
    DEPTHWISE = 3
    AVERAGE_POOL = 4
    MAX_POOL = 5
    ADD = 6
    RESCALE = 7
    """Another scale, zero point or range: relu, clip, and what two quantisers beside each other do."""


@dataclass
class Op:
    """One record of the table, field by field in its order. Offsets of tensors count from the arena's first byte,
    those of constants from the blob's."""

    code: int
    first: int = 0
    """Offset of the input."""
    second: int = 0
    """Offset of the other input of ADD."""
    out: int = 0
    weights: int = 0
    """int8: DENSE [out, in], CONV [out, height, width, in], DEPTHWISE [height, width, out]."""
    bias: int = 0
    """int32 [out]."""
    multipliers: int = 0
    """int32 [out]."""
    shifts: int = 0
    """int32 [out]."""
    zero: int = 0
    """Zero point of the input."""
    second_zero: int = 0
    out_zero: int = 0
    low: int = -128
    """The result is clamped to low..high."""
    high: int = 127
    in_h: int = 1
    in_w: int = 1
    in_c: int = 1
    out_h: int = 1
    out_w: int = 1
    out_c: int = 1
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    multiplier: int = 0
    """ADD, RESCALE, AVERAGE_POOL: one for all channels."""
    second_multiplier: int = 0
    shift: int = 0
    count_padding: int = 0
    """AVERAGE_POOL divides by the whole window also at the edges."""
    reserved: int = 0

    @property
    def in_bytes(self) -> int:
        return self.in_h * self.in_w * self.in_c

    @property
    def out_bytes(self) -> int:
        return self.out_h * self.out_w * self.out_c


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only the host needs: how the graph's own tensors become the board's, and back."""

    input: TensorSpec
    output: TensorSpec
    """As the ONNX file has them; axis 0 is free or 1."""
    order: tuple[int, ...]
    """Axes of the input in the order in which the board has them."""
    out_order: tuple[int, ...]
    quantised_input: str = ""
    """INT8 or UINT8 where the caller brings quantised numbers; empty: floats."""
    softmax: bool = False
    """The host does it, over the last axis of what the board gives."""
    quantised_output: str = ""
    out_scale: float = 0.0
    """Of the quantised output; of the softmax's where there is one, which may be rounded to it and back again."""
    out_zero: int = 0
    out_unsigned: bool = False


@dataclass
class Blob:
    """A blob in parts; `constants` is everything between the operators and the end."""

    ops: list[Op]
    constants: bytes
    arena: int
    """Bytes of RAM for tensors."""
    input: tuple[int, int]
    """Offset in the arena, and bytes."""
    output: tuple[int, int]
    in_scale: float
    in_zero: int
    out_scale: float
    out_zero: int
    note: Note
    board_bytes: int = field(default=0)
    """Bytes of flash."""
    data: bytes = b""

    @property
    def board(self) -> bytes:
        """What the board is given."""
        return self.data[: self.board_bytes]

    def array(self, offset: int, dtype: type[np.generic], count: int) -> NDArray[np.generic]:
        """Constants of the blob."""
        return np.frombuffer(self.data, dtype, count, offset)


def constants_offset(ops: int) -> int:
    """Where the constants of a blob with so many operators begin."""
    return HEADER.size + ops * RECORD.size


def pack_blob(blob: Blob) -> bytes:
    """Its bytes; operators must hold final offsets."""
    table = b"".join(RECORD.pack(*astuple(op)) for op in blob.ops)
    body = table + blob.constants + bytes(-len(blob.constants) % 4)
    size = HEADER.size + len(body)

    def head(crc: int) -> bytes:
        return HEADER.pack(
            MAGIC, VERSION, HEADER.size, size, crc, blob.arena, len(blob.ops), *blob.input, *blob.output,
            blob.in_scale, blob.in_zero, blob.out_scale, blob.out_zero, HEADER.size, 0,
        )  # fmt: skip

    board = head(zlib.crc32(head(0)[CRC_FROM:] + body)) + body
    return board + msgspec.json.encode(blob.note)


def is_blob(data: Buffer) -> bool:
    """Whether it begins like one."""
    return bytes(memoryview(data)[:4]) == MAGIC


def read_blob(data: Buffer) -> Blob:
    """The blob in `data`. Raises InvalidModel for what is none, is damaged, or is of another version."""
    data = bytes(data)
    if len(data) < HEADER.size or not is_blob(data):
        raise InvalidModel("not a model for microcontrollers")
    (_, version, header, size, crc, arena, count, *io, in_scale, in_zero, out_scale, out_zero, table, _) = (
        HEADER.unpack_from(data)
    )
    if version != VERSION or header != HEADER.size:
        raise InvalidModel(f"the model is a blob of version {version}, not {VERSION}", hint="push the model again")
    fits = size <= min(len(data), LIMIT) and count <= MAX_OPS and constants_offset(count) <= size
    if not fits or table != HEADER.size or zlib.crc32(data[CRC_FROM:size]) != crc:
        raise InvalidModel("the model's blob is damaged or cut short")
    ops = [Op(*RECORD.unpack_from(data, table + at * RECORD.size)) for at in range(count)]
    try:
        note = msgspec.json.decode(data[size:], type=Note)
    except msgspec.MsgspecError as error:
        raise InvalidModel(f"the blob's note for the host cannot be read: {error}") from error
    return Blob(
        ops, data[constants_offset(count) : size], arena, (io[0], io[1]), (io[2], io[3]),
        in_scale, in_zero, out_scale, out_zero, note, size, data,
    )  # fmt: skip


assert len(fields(Op)) * 4 == RECORD.size
