"""The agent in MicroPython, run by this interpreter: it says what the profile says, and does what agent.c does."""

from __future__ import annotations

import hashlib
import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.inference.micro.blob import Code, Op
from msrt.inference.micro.interpret import interpret
from msrt.protocol import mcu
from msrt_device.flash.targets.micropython import SOURCES
from tests.device.gateway.test_kernels import blob_of

BLOB = blob_of(Op(Code.DENSE, in_c=8, out_c=4), 3)
DIGEST = hashlib.sha256(BLOB.board).digest()
TAG = mcu.tag_of(DIGEST)
BOOT = 77


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(SOURCES))
    names = ("msrt_engine", "msrt_frames", "msrt_agent")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SOURCES))
        for name in names:
            sys.modules.pop(name, None)


class Board:
    """Its line is a list, its clock is set."""

    serial, name, firmware, sensor, boot = "s-1", "bench", "test", "ramp", BOOT
    model_bytes, arena_bytes = 1 << 16, 1 << 12

    def __init__(self):
        self.sent, self.now = bytearray(), 0
        self.decoder = mcu.Decoder()
        self.sequence = 0

    def write(self, data):
        self.sent += data

    def millis(self):
        return self.now

    def micros(self):
        return self.now * 1000

    def sense(self, reading, into):
        for at in range(len(into)):
            into[at] = (reading * 100 + at * 5) % 256 - 128

    def alive(self):
        pass

    def said(self):
        frames = self.decoder.feed(bytes(self.sent))
        self.sent.clear()
        return [frame.message for frame in frames]


class Gateway:
    """Asks the agent one thing at a time."""

    def __init__(self, modules):
        self.board = Board()
        self.agent = modules["msrt_agent"].Agent(self.board)

    def ask(self, message):
        self.board.sequence = (self.board.sequence + 1) & 0xFF
        self.agent.heard(mcu.encode(message, self.board.sequence))
        (found,) = self.board.said()
        return found

    def loaded(self):
        self.ask(mcu.Ask())
        self.ask(mcu.Lease(1, 1000, 0))
        self.ask(mcu.Load(len(BLOB.board), BLOB.arena))
        for at in range(0, len(BLOB.board), 100):
            self.ask(mcu.Chunk(at, BLOB.board[at : at + 100]))
        return self.ask(mcu.Finish(DIGEST))


@pytest.fixture
def gateway(modules):
    return Gateway(modules)


@given(st.binary(max_size=1000), st.integers(0, 255), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_both_ends_make_the_same_frames(modules, data, sequence, offset):
    """What one end encodes is byte for byte what the other does, and is read by both."""
    frames = modules["msrt_frames"]
    message = mcu.Chunk(offset, data)
    theirs, ours = mcu.encode(message, sequence), frames.encode(mcu.Kind.CHUNK, sequence, message.pack())
    assert theirs == ours
    assert frames.Decoder().feed(b"\x07noise" + theirs) == [(mcu.Kind.CHUNK, sequence, message.pack())]


@given(st.binary(max_size=3000), st.integers(1, 64))
@settings(max_examples=200)
def test_noise_costs_a_frame_and_never_the_line(modules, noise, step):
    """After any bytes a zero and a frame are heard."""
    decoder, frame = modules["msrt_frames"].Decoder(), mcu.encode(mcu.Ask(), 9)
    stream, found = noise + b"\0" + frame, []
    for at in range(0, len(stream), step):
        found += decoder.feed(stream[at : at + step])
    assert (mcu.Kind.ASK, 9, b"\1") in found


def test_it_says_who_it_is_and_serves_a_model(gateway):
    """Hello, lease, chunks, digest, and an answer that is the reference's."""
    hello = gateway.ask(mcu.Ask())
    assert (hello.serial, hello.boot, hello.digest) == ("s-1", BOOT, bytes(32))
    assert gateway.loaded() == mcu.Done(len(BLOB.board))
    assert gateway.ask(mcu.Ask()).digest == DIGEST
    assert gateway.ask(mcu.Lease(1, 1000, 0)) == mcu.Done(BOOT)
    row = np.arange(-4, 4, dtype=np.int8)
    assert gateway.ask(mcu.Infer(TAG, 8, 0, row[:5].tobytes())) == mcu.Done(5)
    found = gateway.ask(mcu.Infer(TAG, 8, 5, row[5:].tobytes()))
    assert found.data == interpret(BLOB, row[None])[0].tobytes()


def test_a_repeated_question_gets_the_same_answer_and_is_not_done_again(gateway):
    """A chunk that is said twice is there once."""
    gateway.ask(mcu.Load(len(BLOB.board), BLOB.arena))
    first = gateway.ask(mcu.Chunk(0, BLOB.board[:50]))
    gateway.board.sequence -= 1
    assert gateway.ask(mcu.Chunk(0, BLOB.board[:50])) == first == mcu.Done(50)


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        (mcu.Load(1 << 20, 10), mcu.Fault.NO_ROOM),
        (mcu.Load(100, 1 << 20), mcu.Fault.NO_ROOM),
        (mcu.Chunk(7, b"abc"), mcu.Fault.OUT_OF_ORDER),
        (mcu.Finish(DIGEST), mcu.Fault.OUT_OF_ORDER),
        (mcu.Infer(1, 8, 0, b"12345678"), mcu.Fault.NO_LEASE),
        (mcu.Done(3), mcu.Fault.MALFORMED),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_fault(gateway, question, fault):
    """And it answers the next question."""
    assert gateway.ask(question).code == fault
    assert gateway.ask(mcu.Ask()).serial == "s-1"


def test_another_digest_and_a_damaged_model_are_refused(gateway):
    """Neither is served."""
    gateway.ask(mcu.Lease(1, 1000, 0))
    for data, digest, fault in (
        (BLOB.board, bytes(32), mcu.Fault.DIGEST),
        (b"x" * 100, hashlib.sha256(b"x" * 100).digest(), mcu.Fault.NOT_A_MODEL),
    ):
        gateway.ask(mcu.Load(len(data), 64))
        gateway.ask(mcu.Chunk(0, data))
        assert gateway.ask(mcu.Finish(digest)).code == fault
        assert gateway.ask(mcu.Infer(TAG, 8, 0, bytes(8))).code == mcu.Fault.NO_MODEL


def test_without_a_lease_nothing_is_served(gateway):
    """It ends by the board's own clock."""
    gateway.loaded()
    gateway.board.now += 1001
    gateway.agent.step()
    assert gateway.ask(mcu.Infer(TAG, 8, 0, bytes(8))).code == mcu.Fault.NO_LEASE


def test_its_sensor_posts_what_changes_until_it_is_taken(gateway):
    """An event is said again until somebody has it; the next one follows."""
    gateway.loaded()
    gateway.ask(mcu.Lease(2, 1_000_000, 2000))
    events = []
    for _ in range(300):
        gateway.board.now += 100
        gateway.agent.step()
        for event in gateway.board.said():
            events.append(event.number)
            if events.count(event.number) == 2:
                gateway.agent.heard(mcu.encode(mcu.Taken(event.number), event.number))
    assert len(set(events)) > 1
    assert all(events.count(number) == 2 for number in sorted(set(events))[:-1])
    assert sorted(set(events)) == list(range(1, len(set(events)) + 1))
