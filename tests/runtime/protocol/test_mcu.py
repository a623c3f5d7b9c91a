"""Profile `mcu`: frames between a gateway and its microcontroller."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import FrameTooLarge, MalformedFrame
from msrt.protocol import mcu

GOLDEN = json.loads(Path(__file__).with_name("mcu.json").read_text())
BYTES = ("data", "digest")


def message(entry):
    fields = dict(entry["message"])
    made = getattr(mcu, fields.pop("type"))
    return made(**{name: bytes.fromhex(value) if name in BYTES else value for name, value in fields.items()})


@pytest.mark.parametrize("entry", GOLDEN["frames"], ids=lambda entry: entry["name"])
def test_a_message_becomes_its_golden_bytes_and_back(entry):
    """Both ways, byte for byte."""
    found = bytes.fromhex(entry["bytes"])
    assert mcu.encode(message(entry), entry["sequence"]) == found
    assert mcu.Decoder().feed(found) == [mcu.Frame(entry["sequence"], message(entry))]
    assert GOLDEN["version"] == mcu.VERSION


def test_every_message_has_a_vector():
    """A new one comes with its bytes."""
    assert {type(message(entry)) for entry in GOLDEN["frames"]} == set(mcu.McuMessage.__args__)


chunks = st.builds(mcu.Chunk, st.integers(0, 2**32 - 1), st.binary(max_size=mcu.CHUNK))
frames = st.lists(st.tuples(chunks, st.integers(0, 255)), max_size=4)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@settings(max_examples=40)
@given(frames, cuts)
def test_frames_arrive_however_the_line_cuts_them(sent, sizes):
    """One byte at a time, or several frames in one read."""
    data, decoder, found = b"".join(mcu.encode(*one) for one in sent), mcu.Decoder(), []
    while data:
        size = sizes[len(data) % len(sizes)]
        found += decoder.feed(data[:size])
        data = data[size:]
    assert [(frame.message, frame.sequence) for frame in found] == sent
    assert not decoder.damaged


@settings(max_examples=40)
@given(frames, st.binary(max_size=3000), st.data())
def test_noise_costs_frames_but_never_the_line(sent, noise, data):
    """What was struck is dropped, what was not arrives, and the next frame always does."""
    stream = bytearray(b"".join(mcu.encode(*one) for one in sent))
    at = data.draw(st.integers(0, len(stream)))
    stream[at:at] = noise
    decoder = mcu.Decoder()
    found = decoder.feed(bytes(stream))
    known = [(frame.message, frame.sequence) for frame in found]
    assert len([one for one in sent if one in known]) >= len(sent) - 1
    last = mcu.Done(1)
    assert decoder.feed(mcu.encode(last, 9))[-1] == mcu.Frame(9, last)


@settings(max_examples=40)
@given(chunks, st.data())
def test_a_flipped_bit_is_noticed(chunk, data):
    """Nothing but the message that was sent is ever taken for a message."""
    frame = bytearray(mcu.encode(chunk, 5))
    bit = data.draw(st.integers(8, 8 * len(frame) - 9))
    frame[bit // 8] ^= 1 << bit % 8
    assert mcu.Decoder().feed(bytes(frame)) == []


@settings(max_examples=40)
@given(st.binary(max_size=1200).map(lambda raw: raw.replace(b"\0", b"\1")))
def test_any_bytes_are_a_frame_or_malformed(raw):
    """Nothing else is raised, whatever the line brings."""
    with contextlib.suppress(MalformedFrame):
        mcu.decode(raw)


def test_what_no_frame_holds_is_refused():
    """By who would send it."""
    with pytest.raises(FrameTooLarge):
        mcu.encode(mcu.Chunk(0, bytes(mcu.BODY_LIMIT)), 0)
