"""The small agent in MicroPython: what agent.c is for a Cortex-M, question for question.

It decides and never waits: `heard` takes bytes of the line, `step` is called again and again. It runs on a board, with

    serial, name, firmware, sensor   texts of its hello; no sensor: ""
    boot                             32 bits that differ from start to start
    model_bytes, arena_bytes         what it has for a model and for its tensors
    write(data)                      to the line
    millis()                         since any beginning, never back
    micros()                         for differences, modulo 2**30
    sense(reading, into)             fill an array of int8 with a reading of the sensor
    alive()                          feeds the watchdog
"""

import array
import hashlib
import struct

from msrt_engine import Model, NoRoom, NotAModel, int8s
from msrt_frames import BODY_LIMIT, Decoder, encode

ASK, LEASE, LOAD, CHUNK, FINISH, INFER, TAKEN = 1, 2, 3, 4, 5, 6, 7
HELLO, DONE, INFERRED, EVENT, FAILED = 65, 66, 67, 68, 69
MALFORMED, NO_LEASE, NO_MODEL, NO_ROOM, DIGEST, NOT_A_MODEL, OUT_OF_ORDER = 1, 2, 3, 4, 5, 6, 7
PROFILE = 1
EVENTS = 16
EVENT_OUTPUTS = 64
EVENT_AGAIN_MS = 500
NOTHING = bytes(32)


class Refused(Exception):
    """(fault, text) for the gateway."""


def _text(text: str) -> bytes:
    data = text.encode()[:64]
    return bytes([len(data)]) + data


def _put(into: "array.array[int]", at: int, data: bytes) -> None:
    memoryview(into)[at : at + len(data)] = array.array("b", data)


def _size(body: bytes, size: int, what: str) -> None:
    if len(body) != size:
        raise Refused(MALFORMED, "%s has %d bytes" % (what, size))


class Agent:
    """One board, one line, one model."""

    def __init__(self, board) -> None:
        self._board = board
        self._decoder = Decoder()
        self._answered, self._reply = -1, b""
        """The last question's sequence, and the frame that answered it: a repeated question gets it again."""
        self._lease_from, self._lease_ms, self._sense_ms, self._leased = 0, 0, 0, False
        self._blob, self._coming, self._arrived = int8s(0), 0, 0
        self._digest, self._model, self._arena = NOTHING, None, int8s(0)
        self._gathered = 0
        """Bytes of an input that comes in pieces."""
        self._sensed_at, self._reading, self._last_best, self._numbered, self._dropped = 0, 0, -1, 0, 0
        self._events, self._told_at = [], None

    # --- questions -------------------------------------------------------------------------------------------------

    def heard(self, data: bytes) -> None:
        """Bytes of the line."""
        for kind, sequence, body in self._decoder.feed(data):
            if kind == TAKEN:
                self._taken(body)
            elif kind != ASK and sequence == self._answered:
                self._board.write(self._reply)
            else:
                self._answer(kind, sequence, body)

    def _answer(self, kind: int, sequence: int, body: bytes) -> None:
        doers = {
            ASK: self._hello, LEASE: self._lease, LOAD: self._load, CHUNK: self._chunk, FINISH: self._finish,
            INFER: self._infer,
        }  # fmt: skip
        try:
            if kind not in doers:
                raise Refused(MALFORMED, "unknown type")  # noqa: TRY301 - answered below, like the others
            found = doers[kind](body)
            kind, body = (DONE, struct.pack("<I", found)) if isinstance(found, int) else found
        except Refused as refused:
            kind, body = FAILED, struct.pack("<H", refused.args[0]) + _text(refused.args[1])
        self._answered, self._reply = sequence, encode(kind, sequence, body)
        self._board.write(self._reply)

    def _hello(self, _body: bytes) -> "tuple[int, bytes]":
        board, self._leased = self._board, False
        digest = NOTHING if self._model is None else self._digest
        body = struct.pack("<BIII32s", PROFILE, board.boot, board.model_bytes, board.arena_bytes, digest)
        for text in (board.serial, board.name, board.firmware, board.sensor):
            body += _text(text)
        return HELLO, body

    def _lease(self, body: bytes) -> int:
        _size(body, 12, "a lease")
        _, self._lease_ms, self._sense_ms = struct.unpack("<III", body)
        self._lease_from, self._leased = self._board.millis(), True
        return self._board.boot

    def _load(self, body: bytes) -> int:
        _size(body, 8, "an announcement")
        size, arena = struct.unpack("<II", body)
        self._model, self._blob, self._arena = None, int8s(0), int8s(0)  # makes room
        self._coming = self._arrived = self._gathered = 0
        if size > self._board.model_bytes:
            raise Refused(NO_ROOM, "the model needs more flash")
        if arena > self._board.arena_bytes:
            raise Refused(NO_ROOM, "the model needs more memory")
        try:
            self._blob, self._arena = int8s(size), int8s(arena)
        except MemoryError:
            raise Refused(NO_ROOM, "the memory is in pieces")
        self._coming = size
        return 0

    def _chunk(self, body: bytes) -> int:
        if len(body) < 5:
            raise Refused(MALFORMED, "a chunk has an offset and bytes")
        (offset,), size = struct.unpack_from("<I", body, 0), len(body) - 4
        if offset != self._arrived or size > self._coming - self._arrived:
            raise Refused(OUT_OF_ORDER, "not the next bytes")
        _put(self._blob, offset, body[4:])
        self._arrived += size
        return self._arrived

    def _finish(self, body: bytes) -> int:
        _size(body, 32, "a digest")
        if not self._coming or self._arrived != self._coming:
            raise Refused(OUT_OF_ORDER, "bytes are missing")
        self._board.alive()
        if hashlib.sha256(self._blob).digest() != body:
            raise Refused(DIGEST, "its SHA-256 is another one")
        try:
            self._model = Model(self._blob, self._coming, len(self._arena))
        except NoRoom as fault:
            raise Refused(NO_ROOM, str(fault))
        except NotAModel as fault:
            raise Refused(NOT_A_MODEL, str(fault))
        self._digest, self._last_best = body, -1
        return self._coming

    def _infer(self, body: bytes) -> "int | tuple[int, bytes]":
        if len(body) <= 12:
            raise Refused(MALFORMED, "a question has an input")
        tag, total, offset = struct.unpack_from("<III", body, 0)
        if not self._leased:
            raise Refused(NO_LEASE, "no lease holds")
        model, size = self._model, len(body) - 12
        if model is None or tag != self._tag():
            raise Refused(NO_MODEL, "another model is here, or none")
        if not offset:
            self._gathered = 0
        if total != model.input_bytes or offset != self._gathered or size > total - offset:
            raise Refused(OUT_OF_ORDER, "not the input's next bytes")
        _put(self._arena, model.input_at + offset, body[12:])
        self._gathered = offset + size
        if self._gathered < total:
            return self._gathered
        self._gathered = 0
        if model.output_bytes > BODY_LIMIT - 4:
            raise Refused(NO_ROOM, "the output does not fit a frame")
        begun = self._board.micros()
        model.run(self._arena, self._board.alive)
        took = (self._board.micros() - begun) & 0x3FFFFFFF
        return INFERRED, struct.pack("<I", took) + self._outputs(model.output_bytes)

    def _tag(self) -> int:
        return struct.unpack_from("<I", self._digest, 0)[0]

    def _outputs(self, count: int) -> bytes:
        at = self._model.output_at
        return bytes(memoryview(self._arena)[at : at + count])

    # --- what it finds by itself -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Once a round of the board's loop."""
        board = self._board
        if self._leased and board.millis() - self._lease_from > self._lease_ms:
            self._leased = False
        if self._leased and self._model is not None and self._sense_ms and board.sensor and not self._gathered:
            self._sense()
        if self._leased and self._events:
            self._tell()
        board.alive()

    def _sense(self) -> None:
        board, model = self._board, self._model
        if board.millis() - self._sensed_at < self._sense_ms:
            return
        self._sensed_at = board.millis()
        reading, self._reading = self._reading, self._reading + 1
        at = model.input_at
        board.sense(reading, memoryview(self._arena)[at : at + model.input_bytes])
        model.run(self._arena, board.alive)
        outputs = list(memoryview(self._arena)[model.output_at : model.output_at + model.output_bytes])
        best = outputs.index(max(outputs))
        if best == self._last_best:  # a finding is an event when it is another one than before
            return
        self._last_best = best
        if len(self._events) == EVENTS:
            self._events.pop(0)
            self._dropped += 1
            self._told_at = None
        self._numbered += 1
        head = self._numbered, self._tag(), board.millis() & 0xFFFFFFFF, reading
        self._events.append((head, best, self._outputs(min(model.output_bytes, EVENT_OUTPUTS))))

    def _tell(self) -> None:
        now = self._board.millis()
        if self._told_at is not None and now - self._told_at < EVENT_AGAIN_MS:
            return
        self._told_at = now
        head, best, outputs = self._events[0]
        body = struct.pack("<6I", *head, self._dropped, best) + outputs
        self._board.write(encode(EVENT, head[0], body))

    def _taken(self, body: bytes) -> None:
        if len(body) == 4 and self._events and self._events[0][0][0] == struct.unpack("<I", body)[0]:
            self._events.pop(0)
            self._told_at = None
