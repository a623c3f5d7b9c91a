"""Runs a blob of version 1 (runtime/msrt/inference/micro/README.md) in MicroPython, bit for bit as the C kernels do.

Bytes of the model and of the arena are arrays of int8, so that an index is a signed number and a slice no copy.
Sums are Python's integers; one rounding of the product, as in the reference.
"""

import array
import binascii
import struct

HEADER_BYTES = 64
VERSION = 1
MAX_OPS = 1024
DENSE, CONV, DEPTHWISE, AVERAGE_POOL, MAX_POOL, ADD, RESCALE = 1, 2, 3, 4, 5, 6, 7


class NotAModel(Exception):
    """Its text is for the gateway: another version, an unknown operator, damaged."""


class NoRoom(Exception):
    """It needs more memory than the board gives."""


def int8s(size: int) -> "array.array[int]":
    """So many zeros."""
    return array.array("b", bytes(size))


class Op:
    """One record of the table: blob.py has its fields and their meaning."""

    def __init__(self, blob: "array.array[int]", at: int) -> None:
        (
            self.code, self.first, self.second, self.out, self.weights, self.bias, self.multipliers, self.shifts,
            self.zero, self.second_zero, self.out_zero, self.low, self.high, self.in_h, self.in_w, self.in_c,
            self.out_h, self.out_w, self.out_c, self.kernel_h, self.kernel_w, self.stride_h, self.stride_w,
            self.pad_top, self.pad_left, self.dilation_h, self.dilation_w, self.multiplier, self.second_multiplier,
            self.shift, self.count_padding, _,
        ) = struct.unpack_from("<32i", blob, at)  # fmt: skip
        self.in_bytes = self.in_h * self.in_w * self.in_c
        self.out_bytes = self.out_h * self.out_w * self.out_c

    def weight_bytes(self) -> int:
        """Of an operator that has weights; 0 for the others."""
        if self.code == DENSE:
            return self.in_bytes * self.out_c
        if self.code == CONV:
            return self.kernel_h * self.kernel_w * self.in_c * self.out_c
        return self.kernel_h * self.kernel_w * self.out_c if self.code == DEPTHWISE else 0

    def fits(self, size: int, arena: int) -> bool:
        """Nothing that it names lies outside."""
        sides = (self.in_h, self.in_w, self.in_c, self.out_h, self.out_w, self.out_c, self.kernel_h, self.kernel_w)
        if min(sides) < 1 or min(self.stride_h, self.stride_w, self.dilation_h, self.dilation_w) < 1:
            return False
        offsets = (self.first, self.second, self.out, self.pad_top, self.pad_left)
        if min(offsets) < 0 or self.first + self.in_bytes > arena or self.out + self.out_bytes > arena:
            return False
        if self.code <= DEPTHWISE:
            tables = (self.bias, self.multipliers, self.shifts)
            if min(tables) < HEADER_BYTES or max(tables) + 4 * self.out_c > size:
                return False
            if self.code == DEPTHWISE and self.out_c % self.in_c:
                return False
            return self.weights >= HEADER_BYTES and self.weights + self.weight_bytes() <= size
        if self.code in (AVERAGE_POOL, MAX_POOL):
            return self.in_c == self.out_c and 0 <= self.shift <= 46
        if self.in_bytes != self.out_bytes or not 1 <= self.shift <= 62:
            return False
        return self.code == RESCALE or self.second + self.in_bytes <= arena


class Model:
    """A blob that was checked: `arena` and `output` are as its header has them."""

    def __init__(self, blob: "array.array[int]", size: int, room: int) -> None:
        """The first `size` numbers of `blob`; `room`: bytes for its arena. Raises NotAModel, NoRoom."""
        head = bytes(memoryview(blob)[:HEADER_BYTES])
        if size < HEADER_BYTES or head[:4] != b"MSRM":
            raise NotAModel("no model, or a damaged one")
        version, header, board, crc, arena, ops, *rest = struct.unpack_from("<HHIIIIIIII", head, 4)
        if version != VERSION or header != HEADER_BYTES:
            raise NotAModel("a model of another version")
        if board != size or crc != binascii.crc32(memoryview(blob)[16:size]) & 0xFFFFFFFF:
            raise NotAModel("no model, or a damaged one")
        if arena > room:
            raise NoRoom("the model needs more memory")
        self.arena = arena
        self.input_at, self.input_bytes, self.output_at, self.output_bytes = rest
        table = struct.unpack_from("<I", head, 56)[0]
        inside = max(self.input_at + self.input_bytes, self.output_at + self.output_bytes) <= arena
        if ops > MAX_OPS or table + 128 * ops > size or not inside:
            raise NotAModel("no model, or a damaged one")
        self._blob = blob
        self._ops = [Op(blob, table + 128 * at) for at in range(ops)]
        for op in self._ops:
            if not DENSE <= op.code <= RESCALE:
                raise NotAModel("an operator is unknown here")
            if not op.fits(size, arena) or any(not 1 <= shift <= 62 for shift in self._numbers(op.shifts, op)):
                raise NotAModel("no model, or a damaged one")

    def _numbers(self, at: int, op: Op) -> "tuple[int, ...]":
        """A table of a number for each output channel; none where the operator has no weights."""
        return struct.unpack_from("<%di" % op.out_c, self._blob, at) if op.code <= DEPTHWISE else ()

    def run(self, arena: "array.array[int]", alive) -> None:
        """From the input's place in the arena to the output's. `alive` is called between pieces of work."""
        view = memoryview(arena)
        for op in self._ops:
            alive()
            tables = self._numbers(op.bias, op), self._numbers(op.multipliers, op), self._numbers(op.shifts, op)
            x, y = view[op.first : op.first + op.in_bytes], view[op.out : op.out + op.out_bytes]
            w = memoryview(self._blob)[op.weights : op.weights + op.weight_bytes()]
            if op.code == DENSE:
                _dense(op, w, tables, x, y, alive)
            elif op.code == CONV:
                _conv(op, w, tables, x, y, alive)
            elif op.code == DEPTHWISE:
                _depthwise(op, w, tables, x, y, alive)
            elif op.code == AVERAGE_POOL:
                _average_pool(op, x, y)
            elif op.code == MAX_POOL:
                _max_pool(op, x, y)
            else:
                _add_or_rescale(op, x, view[op.second : op.second + op.in_bytes], y)


def _clamped(value: int, op: Op) -> int:
    return op.low if value < op.low else min(value, op.high)


def _scaled(product: int, shift: int, op: Op) -> int:
    return _clamped(((product + (1 << (shift - 1))) >> shift) + op.out_zero, op)


def _dense(op, w, tables, x, y, alive):
    size, zero = op.in_bytes, op.zero
    seen = [value - zero for value in x]  # once, not for each output
    at = 0
    for o, (total, multiplier, shift) in enumerate(zip(*tables)):
        for value in seen:
            total += value * w[at]
            at += 1
        y[o] = _scaled(total * multiplier, shift, op)
        if not o & 15:
            alive()
    assert at == size * op.out_c


def _taps(begin: int, dilation: int, kernel: int, size: int) -> "list[tuple[int, int]]":
    """(tap, position) of the taps of one axis that lie inside."""
    return [(tap, begin + tap * dilation) for tap in range(kernel) if 0 <= begin + tap * dilation < size]


def _windows(op):
    """For each output pixel, row by row: ((row tap, row), ...) and ((column tap, column), ...) that lie inside."""
    columns = [
        _taps(column * op.stride_w - op.pad_left, op.dilation_w, op.kernel_w, op.in_w) for column in range(op.out_w)
    ]
    for row in range(op.out_h):
        rows = _taps(row * op.stride_h - op.pad_top, op.dilation_h, op.kernel_h, op.in_h)
        for found in columns:
            yield rows, found


def _conv(op, w, tables, x, y, alive):
    channels, zero, width = op.in_c, op.zero, op.kernel_w
    size = op.kernel_h * width * channels
    at = 0
    for rows, columns in _windows(op):
        alive()
        places = []  # of weights within a filter
        seen = []
        for i, row in rows:
            for j, column in columns:
                first, place = (row * op.in_w + column) * channels, (i * width + j) * channels
                for channel in range(channels):
                    seen.append(x[first + channel] - zero)
                    places.append(place + channel)
        filter_ = 0
        for total, multiplier, shift in zip(*tables):
            for value, place in zip(seen, places):
                total += value * w[filter_ + place]
            filter_ += size
            y[at] = _scaled(total * multiplier, shift, op)
            at += 1


def _depthwise(op, w, tables, x, y, alive):
    channels, zero, outs = op.in_c, op.zero, op.out_c
    times = outs // channels
    at = 0
    for rows, columns in _windows(op):
        alive()
        pairs = []
        for i, row in rows:
            for j, column in columns:
                pairs.append(((row * op.in_w + column) * channels, (i * op.kernel_w + j) * outs))
        o = 0
        for total, multiplier, shift in zip(*tables):
            channel = o // times
            for first, place in pairs:
                total += (x[first + channel] - zero) * w[place + o]
            y[at] = _scaled(total * multiplier, shift, op)
            o += 1
            at += 1


def _average_pool(op, x, y):
    channels, at = op.in_c, 0
    for rows, columns in _windows(op):
        inside = len(rows) * len(columns)
        divisor = ((op.kernel_h * op.kernel_w if op.count_padding else inside) or 1) << op.shift
        firsts = [(row * op.in_w + column) * channels for _, row in rows for _, column in columns]
        for channel in range(channels):
            total = -op.zero * inside
            for first in firsts:
                total += x[first + channel]
            y[at] = _clamped((total * op.multiplier + (divisor >> 1)) // divisor + op.out_zero, op)
            at += 1


def _max_pool(op, x, y):
    channels, at = op.in_c, 0
    for rows, columns in _windows(op):
        firsts = [(row * op.in_w + column) * channels for _, row in rows for _, column in columns]
        for channel in range(channels):
            best = -128
            for first in firsts:
                best = max(best, x[first + channel])
            y[at] = _clamped(best, op)
            at += 1


def _add_or_rescale(op, x, other, y):
    both = op.code == ADD
    for at in range(op.in_bytes):
        total = (x[at] - op.zero) * op.multiplier
        if both:
            total += (other[at] - op.second_zero) * op.second_multiplier
        y[at] = _scaled(total, op.shift, op)
