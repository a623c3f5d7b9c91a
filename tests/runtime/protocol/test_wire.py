"""The wire: whatever the bytes, a message or one of four typed errors, and neither costs much."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import CallerError, FrameTooLarge, MalformedFrame, UnknownMessage, VersionMismatch
from msrt.protocol import wire
from msrt.protocol.messages import (
    Bye,
    Call,
    Event,
    Heartbeat,
    Infer,
    InferCancel,
    InferFailed,
    Inferred,
    Load,
    Message,
    Return,
    StreamChunk,
    StreamOpen,
    TensorSpec,
)

TYPED = (MalformedFrame, FrameTooLarge, UnknownMessage, VersionMismatch)
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
VALID = [bytes.fromhex(entry["packet"][0]) for entry in GOLDEN["packets"]]
TAGS = [cls.__struct_config__.tag for cls in Message.__args__]


def outcome(header: bytes) -> wire.Packet | Exception:
    try:
        return wire.decode([header], wire.ZMQ_LIMIT)
    except TYPED as error:
        return error


def header(body: object, delivery: int = 0) -> bytes:
    return msgpack.packb([1, delivery, 0, 0, 0, 0, body])


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes_are_refused_or_read(frames):
    """No bytes make `decode` raise anything else."""
    with contextlib.suppress(TYPED):
        wire.decode(frames, 100)


@settings(max_examples=600)
@given(st.sampled_from(VALID), st.data())
def test_damaged_packets_are_refused_or_read(whole, data):
    """Bytes changed, cut, doubled or put in between: typed errors, and the quick and the strict reader agree."""
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "double"]))
        piece = data.draw(st.binary(min_size=1, max_size=5))
        if kind == "change":
            damaged[at : at + len(piece)] = piece
        elif kind == "cut":
            del damaged[at:]
        elif kind == "insert":
            damaged[at:at] = piece
        else:
            damaged[at:at] = damaged[at : at + 20]
    outcome(bytes(damaged))
    try:
        quick, strict = wire._quick(damaged), wire._envelope(damaged)
    except TYPED:
        return
    if quick is not None and whole.count(b"\xa1t") == damaged.count(b"\xa1t"):
        names = ("version", "delivery", "seq", "epoch", "ack_session", "ack_durable", "message")
        assert repr([getattr(quick, n) for n in names]) == repr([getattr(strict, n) for n in names])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500)
@given(st.sampled_from(TAGS), st.data())
def test_wild_values_in_known_fields_are_refused_or_read(tag, data):
    """Right names, wild contents: typed errors only."""
    cls = next(c for c in Message.__args__ if c.__struct_config__.tag == tag)
    body = {name: data.draw(values) for name in cls.__struct_fields__ if data.draw(st.booleans())}
    outcome(header({"t": tag, **body}, int(cls.delivery)))


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=9), values, max_size=5), st.integers(0, 2**63 - 1))
def test_free_form_fields_come_back_as_they_went(params, seq):
    """A call's parameters survive the wire, whatever they are."""
    packet = wire.decode(wire.encode(Call(1, "x", params), seq=seq), wire.ZMQ_LIMIT)
    assert repr(packet.message) == repr(Call(1, "x", params))
    assert packet.seq == seq


RETURN = b"\x97\x01\x02\x01\x00\x00\x00\x83\xa1t\xa6return\xa2id\x01\xa6result"
INFER = b"\x97\x01\x01\x01\x00\x00\x00\x82\xa1t\xa5infer\xa3ids"
ROW = b"\xdc\x40\x00" + b"\x80" * 16_384


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("a deep list", b"\x91" * 500_000),
        ("a deep map", b"\x81\xa1a" * 150_000),
        ("a thousand deep", header({"t": "return"})[:-1] + b"\x91" * 1000 + b"\xc0"),
        ("one long list of empty maps", b"\xdd\x00\x07\xa1\x20" + b"\x80" * 500_000),
        ("many lists of empty maps", b"\xdc\x00\x1e" + ROW * 30),
        ("lists that lie about their length, inside each other", b"\xdd\x00\x00\x40\x00" * 1000),
        ("a list of four thousand million", b"\x97\x01\x00\x00\x00\x00\x00\xdd\xff\xff\xff\xff"),
        ("empty maps in a free-form field", RETURN + b"\xdc\x00\x1e" + ROW * 30),
        ("a list of numbers where a request's ids are", INFER + b"\xdd\x00\x06\x00\x00" + b"\x01" * 393_216),
    ],
)  # fmt: skip
def test_bombs_are_refused_cheaply(name, bomb):
    """Refused before they cost more memory than a few packets."""
    tracemalloc.start()
    try:
        result = outcome(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(result, MalformedFrame), name
    assert peak < 5 << 20, (name, peak)


def test_the_packet_limit_is_the_links():
    """One byte over, all frames together, is too large, and the error says by how much."""
    frames = wire.encode(StreamChunk(1, 0), [bytes(100)])
    size = sum(map(len, frames))
    wire.decode(frames, size)
    with pytest.raises(FrameTooLarge) as raised:
        wire.decode(frames, size - 1)
    assert (raised.value.size, raised.value.limit) == (size, size - 1)


def test_the_largest_chunk_fits_its_link():
    """HEADER_ROOM is enough for the header of a chunk and for the packing."""
    for limit in (wire.ZMQ_LIMIT, wire.MQTT_LIMIT):
        big = 2**63 - 1
        frames = wire.encode(
            StreamChunk(big, big),
            [bytes(wire.chunk_limit(limit))],
            seq=big,
            epoch=big,
            ack_session=big,
            ack_durable=big,
        )
        assert len(wire.pack_frames(frames)) <= limit


def test_a_header_over_its_limit_is_not_sent():
    """The sender finds out, not the receiver."""
    with pytest.raises(FrameTooLarge):
        wire.encode(Return(1, "x" * wire.HEADER_LIMIT))
    with pytest.raises(FrameTooLarge):
        wire.decode([b"x" * (wire.HEADER_LIMIT + 1)], wire.ZMQ_LIMIT)


@pytest.mark.parametrize("count", [0, 256])
def test_a_packet_has_one_to_255_frames(count):
    """None or too many are refused on both ways in."""
    with pytest.raises(MalformedFrame):
        wire.decode([b""] * count, wire.ZMQ_LIMIT)
    with pytest.raises(CallerError):
        wire.pack_frames([b""] * count)


def test_too_many_raw_frames_are_not_sent():
    """The count is the caller's fault."""
    with pytest.raises(CallerError):
        wire.encode(Heartbeat(), [b""] * 255)


def nested(depth: int) -> list:
    return [] if depth <= 1 else [nested(depth - 1)]


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, nested(50), {"a": 2**70}, {"s": {"\ud800"}}],
    ids=["an object", "int key", "deep", "big int", "surrogate"],
)
def test_what_the_wire_cannot_say_is_the_callers_fault(value):
    """A value without a place in msgpack, or one that the receiver would refuse, is not sent."""
    with pytest.raises(CallerError):
        wire.encode(Return(1, value))


def test_what_is_sent_at_the_depth_limit_is_read():
    """Both sides draw the line at the same place."""
    for depth in range(1, 40):
        try:
            frames = wire.encode(Return(1, nested(depth)))
        except CallerError:
            assert depth == wire.MAX_DEPTH + 2
            return
        assert wire.decode(frames, wire.ZMQ_LIMIT).message == Return(1, nested(depth))
    raise AssertionError


def test_raw_frames_are_not_copied():
    """An array's bytes go out and come in as views of the same memory."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    message = Infer((1,), (2,), "m", (TensorSpec("x", "FP32", (2, 3)),))
    frames = wire.encode(message, [array.data])
    array[0, 0] = 42
    assert np.frombuffer(frames[1], np.float32)[0] == 42
    packet = wire.decode(frames, wire.ZMQ_LIMIT)
    assert packet.frames[0] is frames[1]


def test_a_strided_frame_is_the_callers_fault():
    """Only whole memory goes on the wire."""
    with pytest.raises(CallerError):
        wire.encode(Heartbeat(), [memoryview(bytes(8))[::2]])


def test_headers_may_come_as_views():
    """MQTT gives slices of its payload."""
    packed = wire.pack_frames(wire.encode(Bye("x"), [b"raw"]))
    packet = wire.decode(wire.unpack_frames(packed), wire.MQTT_LIMIT)
    assert packet.message == Bye("x")
    assert bytes(packet.frames[0]) == b"raw"


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_unpacking_any_payload_is_refused_or_read(payload):
    """A payload that is accepted is exactly what packing its frames gives."""
    try:
        frames = wire.unpack_frames(payload)
    except MalformedFrame:
        return
    assert wire.pack_frames(frames) == payload


def test_a_large_header_is_read_too():
    """Above the quick reader's size the strict one reads the same."""
    load = Load({f"value{n}": float(n) for n in range(5000)})
    frames = wire.encode(load)
    assert len(frames[0]) > 64 << 10
    assert wire.decode(frames, wire.ZMQ_LIMIT).message == load


class Record(msgspec.Struct, frozen=True):
    """What another room may keep."""

    name: str
    payload: bytes
    table: dict[str, int] = {}


@settings(max_examples=200)
@given(st.binary(max_size=50))
def test_records_are_read_as_strictly(data):
    """`unpack` gives the type or a typed error."""
    record = Record("a", data, {"b": 1})
    assert wire.unpack(wire.pack(record), Record) == record
    with pytest.raises((MalformedFrame, FrameTooLarge)):
        wire.unpack(data, Record)
    with pytest.raises(FrameTooLarge):
        wire.unpack(wire.pack(record), Record, limit=len(data))


def test_a_large_record_needs_a_large_limit():
    """A snapshot may hold more than a header when its reader says so."""
    record = Record("a", b"", {str(n): n for n in range(100_000)})
    with pytest.raises(FrameTooLarge):
        wire.unpack(wire.pack(record), Record)
    assert wire.unpack(wire.pack(record), Record, limit=16 << 20) == record


def test_an_event_keeps_what_a_model_found():
    """Free-form data of a durable message comes back with numbers, bytes and nothing."""
    event = Event("n", 1, "cam", "door", "m", 1, 1.5, {"a": [1, 2.5, None, b"\x00"], "b": {"c": "é"}})
    assert wire.decode(wire.encode(event, seq=1), wire.ZMQ_LIMIT).message == event


def test_the_hot_path_is_read_the_quick_way():
    """No message of inference has a field that may nest: their headers need no slow, careful reading."""
    assert not wire._nesting & {Infer, InferCancel, InferFailed, Inferred}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5) | st.builds(msgpack.ExtType, st.integers(0, 5), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 9)),
    lambda below: st.lists(below, max_size=3)
    | st.dictionaries(st.text(max_size=3) | st.integers(0, 3) | st.binary(max_size=2), below, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(ANYTHING)
def test_a_tiny_header_is_read_as_strictly(value):
    """The quick reader of free-form fields gives what the careful one gives, or leaves the header to it."""
    frame = msgpack.packb([1, 2, 1, 0, 0, 0, {"t": "return", "id": 1, "result": value}])
    try:
        expected = repr(wire._envelope(frame).message)
    except TYPED:
        expected = ""
    found = outcome(frame)
    assert (repr(found.message) if isinstance(found, wire.Packet) else "") == expected


def test_the_opening_of_an_update_is_read_the_quick_way():
    """Its meta nests, and a thousand devices send one in a round."""
    meta = {"job": "digits", "round": 3, "nodes": {"n" * 26: 100}, "metrics": {"loss": 1.0, "accuracy": 0.5}}
    opened = StreamOpen(1, "update", meta, 9640, "f" * 64)
    head = wire._quick(wire.encode(opened)[0])
    assert head is not None
    assert head.message == opened
