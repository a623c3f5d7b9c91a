"""Streams: whole and in order through anything, or a typed failure in time."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.errors import BadUpdate, Corrupt, DeadlineExceeded, DiskFull, OutOfOrder
from msrt.protocol.messages import StreamCancel, StreamChunk, StreamCredit, StreamDone, StreamEnd, StreamOpen
from msrt.protocol.stream import Complete, FailedStream, Finished, Read, Send, StreamReceiver, StreamSender, Write
from tests.runtime.protocol.channel import Channel, Faults

BODY = bytes(range(256)) * 4
DIGEST = hashlib.sha256(BODY).hexdigest()


def delivered(channel: Channel) -> bool:
    return channel.finished and channel.completed and bytes(channel.arrived) == channel.body


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 1000])
def test_a_calm_network_delivers_the_whole(size, grows):
    """Whatever the size, what was sent arrives, once, and nothing is sent twice."""
    channel = Channel(BODY[:size], grows=grows).run()
    assert delivered(channel)
    chunks = [m for m in channel.sent if isinstance(m, StreamChunk)]
    assert len(chunks) == -(-size // 10)
    assert channel.now < 60


faults = st.builds(
    Faults,
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    twice=st.sampled_from([0.0, 0.2]),
    delay=st.sampled_from([0.0, 0.01, 0.4]),
    jitter=st.sampled_from([0.0, 0.05, 1.0]),
    until=st.sampled_from([5.0, 20.0]),
)
cuts = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 3), st.booleans()), max_size=4)


@settings(max_examples=250)
@given(
    faults,
    cuts,
    st.integers(0, 2**32),
    st.integers(0, 300),
    st.sampled_from(["whole", "known", "grows"]),
    st.sampled_from([1, 7, 64, 5000]),
)
def test_any_bad_weather_that_ends_is_survived(faults, cuts, seed, size, source, window):
    """Loss, duplication, reordering, reconnects and restarts of the receiver: every byte once, in order, verified."""
    grows, inline = source == "grows", source == "whole"
    channel = Channel(BODY[:size], seed=seed, faults=faults, grows=grows, inline=inline, window=window, patience=60.0)
    for at, seconds, restart in sorted(cuts):
        channel.run(until=at)
        if channel.over or channel.completed:
            break
        if restart:
            channel.restart_receiver()
        channel.cut(seconds)
    channel.run()
    assert delivered(channel), (channel.sender_error, channel.receiver_error)


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 300))
def test_weather_that_does_not_end_fails_by_the_deadline(seed, loss, size):
    """Each side is over within its patience of the last progress, delivered or with DeadlineExceeded."""
    channel = Channel(BODY[:size], seed=seed, faults=Faults(loss=loss), patience=3.0)
    channel.run()
    if not channel.finished:
        assert isinstance(channel.sender_error, (DeadlineExceeded, type(channel.receiver_error)))
    if channel.completed:
        assert bytes(channel.arrived) == channel.body
    assert channel.now < 3.0 * (size // 10 + 5)


def test_a_dead_peer_is_given_up_after_the_patience():
    """Nobody answers: DeadlineExceeded at the promised time, not earlier and not later."""
    channel = Channel(BODY, faults=Faults(loss=1.0), patience=4.0).run()
    assert isinstance(channel.sender_error, DeadlineExceeded)
    assert channel.now == pytest.approx(4.0)


def test_a_silent_sender_is_given_up_by_the_receiver():
    """The receiver's patience runs from the last word of the sender."""
    receiver = StreamReceiver(StreamOpen(1, "k", {}, 10, "d"), 0, 64, 0.0, patience=2.0)
    receiver.handle(receiver.open, b"", 1.0)
    assert receiver.deadline == pytest.approx(3.0)
    assert not receiver.tick(2.9)
    send, failed = receiver.tick(3.0)
    assert isinstance(send.message, StreamCancel)
    assert isinstance(failed.error, DeadlineExceeded)


@pytest.mark.parametrize("have", [0, 9, 10])
def test_few_bytes_cost_two_messages(have):
    """They ride with the opening, and the verdict answers it, whatever of them was here before."""
    channel = Channel(BODY[:10], inline=True, have=have).run()
    assert delivered(channel)
    assert [type(message) for message in channel.sent] == [StreamOpen, StreamDone]


def test_a_receiver_that_looks_for_no_bytes_in_an_opening_gets_them_in_chunks():
    """One of before: it answers with credit."""
    sender = StreamSender(1, "k", {}, 9, "d", 4, 0.0, whole=b"x" * 9)
    assert sender.tick(0.0) == [Send(sender.open, (b"x" * 9,))]
    assert sender.handle(StreamCredit(1, 0, 64), 0.1) == [Read(0, 4)]


def test_bytes_beside_an_opening_that_are_not_all_of_it_are_not_taken():
    """Nor those of a stream without a digest to judge them by."""
    for size, digest in ((10, "d"), (9, "")):
        opened = StreamOpen(1, "k", {}, size, digest)
        receiver = StreamReceiver(opened, 0, 64, 0.0)
        assert receiver.handle(opened, b"x" * 9, 0.0) == [Send(StreamCredit(1, 0, 64))]


def test_a_stream_resumes_where_the_receiver_stands():
    """Bytes held from an earlier try are not sent again."""
    channel = Channel(BODY, have=500).run()
    assert delivered(channel)
    assert min(m.offset for m in channel.sent if isinstance(m, StreamChunk)) == 500


def test_a_receiver_that_has_it_all_asks_for_nothing():
    """An artifact already here costs an opening and an end."""
    channel = Channel(BODY, have=len(BODY)).run()
    assert delivered(channel)
    assert not [m for m in channel.sent if isinstance(m, StreamChunk)]


def test_a_reconnect_goes_on_from_the_last_credit():
    """What was acknowledged before the cut is not sent after it."""
    channel = Channel(BODY, faults=Faults(delay=0.1))
    channel.run(until=1.0)
    acked = channel.sender.acked
    assert 0 < acked < len(BODY)
    channel.cut(1.0)
    before = len(channel.sent)
    assert delivered(channel.run())
    after = channel.sent[before:]
    assert min(m.offset for m in after if isinstance(m, StreamChunk)) >= acked


def test_one_lost_chunk_costs_less_than_a_timeout():
    """Credits that repeat themselves send the sender back before its timer does."""
    channel = Channel(BODY, faults=Faults(delay=0.01))
    channel.run(until=0.05)
    lost = next(i for i, entry in enumerate(channel._queue) if isinstance(entry[3], StreamChunk))
    del channel._queue[lost]
    start = channel.now
    assert delivered(channel.run())
    assert channel.now - start < 0.5 + len(BODY) / 64 * 0.05


def test_the_sender_can_cancel():
    """The receiver hears the sender's reason as a typed error."""
    channel = Channel(BODY)
    channel.run(until=0.05)
    channel.perform(channel.sender.cancel(DiskFull("no room")), from_sender=True)
    channel.run()
    assert isinstance(channel.receiver_error, DiskFull)
    assert isinstance(channel.sender_error, DiskFull)
    assert not channel.completed


def test_the_receiver_can_cancel():
    """The sender hears the receiver's reason, also when the first word of it is lost."""
    channel = Channel(BODY)
    channel.run(until=0.05)
    actions = channel.receiver.cancel(BadUpdate("NaN inside"))
    channel.perform([a for a in actions if isinstance(a, FailedStream)], from_sender=False)
    channel.run()
    assert isinstance(channel.sender_error, BadUpdate)
    assert channel.now < 5


def test_a_rejected_whole_is_a_failure_of_both():
    """Bytes that do not match their digest are never done."""
    channel = Channel(BODY, digest="0" * 64, patience=5.0)
    channel.run(until=2)
    assert len(channel.arrived) == len(BODY)
    channel.perform(channel.receiver.rejected(Corrupt("digest differs"), channel.now), from_sender=False)
    channel.run()
    assert isinstance(channel.sender_error, Corrupt)
    assert not channel.finished


def test_a_lost_done_is_said_again():
    """An ended receiver repeats its verdict to a sender that did not hear it."""
    receiver = StreamReceiver(StreamOpen(1, "k", {}, 0, "d"), 0, 64, 0.0)
    end = StreamEnd(1, 0, "d")
    assert receiver.handle(end, b"", 0.0)[-1] == Complete(0, "d")
    assert receiver.verified(0.0) == [Send(StreamDone(1))]
    assert receiver.handle(end, b"", 1.0) == [Send(StreamDone(1))]


def test_no_window_no_bytes_until_credit_comes():
    """A closed window is probed with empty chunks, so a lost credit cannot stop a stream for good."""
    sender = StreamSender(1, "k", {}, 100, "d", 10, 0.0)
    assert sender.tick(0.0) == [Send(sender.open)]
    assert sender.handle(StreamCredit(1, 0, 10), 0.0) == [Read(0, 10)]
    assert sender.data(0, b"x" * 10, 0.0) == [Send(StreamChunk(1, 0), (b"x" * 10,))]
    assert sender.handle(StreamCredit(1, 10, 10), 0.1) == []
    assert sender.tick(sender.deadline) == [Send(StreamChunk(1, 10), (b"",))]
    assert sender.handle(StreamCredit(1, 10, 15), 1.0) == [Read(10, 5)]


def test_a_slow_source_that_grows_is_not_silence():
    """With nothing to say the sender says so, and neither side gives up."""
    channel = Channel(b"", grows=True, patience=8.0)
    channel.read = lambda offset, size: None
    channel.run(until=100.0)
    assert not channel.sender.over
    assert not channel.receiver.over
    channel.perform(channel.sender.end(0, channel.digest, channel.now), from_sender=True)
    assert delivered(channel.run())


def test_a_source_of_known_size_that_says_nothing_fails():
    """A read that never comes back ends the stream within the patience."""
    channel = Channel(BODY, patience=3.0)
    channel.read = lambda offset, size: None
    channel.run()
    assert "source" in str(channel.sender_error)
    assert channel.now < 4


def test_a_source_that_ends_early_is_corrupt():
    """Fewer bytes than promised is an error of the sender's, told to the receiver."""
    channel = Channel(BODY)
    channel.body = BODY[:100]
    channel.run()
    assert isinstance(channel.sender_error, Corrupt)
    assert isinstance(channel.receiver_error, Corrupt)


def opened(size: int = 100) -> StreamReceiver:
    receiver = StreamReceiver(StreamOpen(1, "k", {}, size, "d"), 0, 64, 0.0)
    receiver.handle(receiver.open, b"", 0.0)
    return receiver


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (StreamChunk(1, -1), b"ab"),
        (StreamChunk(1, 90), b"x" * 11),
        (StreamEnd(1, 99, "d"), b""),
        (StreamEnd(1, 100, "e"), b""),
        (StreamEnd(1, -1, "d"), b""),
        (StreamOpen(1, "k", {}, 101, "d"), b""),
    ],
)
def test_a_sender_that_contradicts_itself_is_cancelled(message, frame):
    """What cannot be true is a typed failure, and the sender is told."""
    send, failed = opened().handle(message, frame, 0.0)
    assert send.message.code == failed.error.code
    assert not send.message.from_sender


def test_a_chunk_over_the_credit_is_dropped():
    """The receiver never holds more than it allowed."""
    receiver = opened(1000)
    assert receiver.handle(StreamChunk(1, 0), b"x" * 65, 0.0) == [Send(StreamCredit(1, 0, 64))]


def test_chunks_of_another_size_overlap_without_harm():
    """After a move to another link the pieces are cut differently; each byte is still written once."""
    receiver = opened()
    assert receiver.handle(StreamChunk(1, 0), b"abc", 0.0)[0] == Write(0, b"abc")
    assert receiver.handle(StreamChunk(1, 1), b"bcdef", 0.0)[0] == Write(3, b"def")


@pytest.mark.parametrize("credit", [StreamCredit(1, 11, 99), StreamCredit(1, -1, 99), StreamCredit(1, 5, 4)])
def test_a_receiver_that_lies_is_cancelled(credit):
    """Credit for bytes that were never sent, or backwards, ends the stream."""
    sender = StreamSender(1, "k", {}, 100, "d", 10, 0.0)
    sender.handle(StreamCredit(1, 0, 10), 0.0)
    sender.data(0, b"x" * 10, 0.0)
    _send, failed = sender.handle(credit, 0.0)
    assert isinstance(failed.error, OutOfOrder)


def test_credit_of_an_earlier_attempt_is_void():
    """A late credit from before a reconnect does not open the stream."""
    sender = StreamSender(1, "k", {}, 100, "d", 10, 0.0)
    sender.reconnected(0.0)
    assert sender.handle(StreamCredit(1, 0, 10, 0), 0.0) == []
    assert sender.handle(StreamCredit(1, 0, 10, 1), 0.0) == [Read(0, 10)]


def test_a_stale_read_is_asked_for_again():
    """Bytes read for an offset that the sender has left are not sent."""
    sender = StreamSender(1, "k", {}, 100, "d", 10, 0.0)
    sender.handle(StreamCredit(1, 0, 100), 0.0)
    sender.reconnected(0.0)
    assert sender.data(0, b"x" * 10, 0.0) == []
    assert sender.handle(StreamCredit(1, 40, 100, 1), 0.0) == [Read(40, 10)]


def test_done_before_the_end_finishes_a_stream_of_known_bytes():
    """A receiver may find that it holds the whole already."""
    sender = StreamSender(1, "k", {}, 100, "d", 10, 0.0)
    assert sender.handle(StreamDone(1), 0.0) == [Finished()]
    assert sender.handle(StreamDone(1), 0.0) == []


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.builds(StreamOpen, st.just(1), st.just("k"), st.just({}), st.integers(-2, 9), st.sampled_from("de")),
            st.builds(StreamChunk, st.just(1), st.integers(-3, 20)),
            st.builds(StreamEnd, st.just(1), st.integers(-3, 20), st.sampled_from("de")),
            st.builds(StreamCredit, st.just(1), st.integers(-3, 20), st.integers(-3, 30), st.integers(-1, 2)),
            st.builds(StreamCancel, st.just(1), st.booleans(), st.text(max_size=9)),
            st.just(StreamDone(1)),
        ),
        max_size=30,
    ),
    st.binary(max_size=9),
)
def test_no_message_of_a_peer_breaks_a_half(messages, frame):
    """Any sequence of well-formed messages ends in actions, never in an exception, and never writes out of order."""
    sender = StreamSender(1, "k", {}, 9, "d", 4, 0.0)
    receiver = StreamReceiver(StreamOpen(1, "k", {}, 9, "d"), 0, 8, 0.0)
    written = 0
    for at, message in enumerate(messages):
        for action in sender.handle(message, at / 10):
            if isinstance(action, Read):
                sender.data(action.offset, b"x" * action.size, at / 10)
        sender.tick(at / 10)
        for action in receiver.handle(message, frame, at / 10):
            if isinstance(action, Write):
                assert action.offset == written
                written += len(action.data)
        assert written <= 9
        receiver.tick(at / 10)


def _chunks(seconds: float, **more: int) -> list[int]:
    """Lengths of the chunks of a sender whose every chunk is credited after so long."""
    size, now = 32 << 20, 0.0
    sender = StreamSender(1, "blob", {}, size, "", (1 << 20) - 1024, now, **more)
    lengths, actions = [], sender.tick(now)
    while not sender.over and sender.sent < size:
        chunks = [a for a in actions if isinstance(a, Send) and isinstance(a.message, StreamChunk)]
        lengths += [len(chunk.frames[0]) for chunk in chunks]
        reads = [a for a in actions if isinstance(a, Read)]
        if reads:
            actions = sender.data(reads[0].offset, memoryview(bytes(reads[0].size)), now)
        else:
            now += seconds
            actions = sender.handle(StreamCredit(1, sender.sent, sender.sent + (4 << 20)), now)
    return lengths


def test_chunks_grow_on_a_quick_link_and_stay_small_on_a_slow_one():
    """A quarter of a MiB first; the link's limit where four MiB take 5 ms, still a quarter where they take 1 s."""
    quick, slow = _chunks(0.005), _chunks(1.0)
    assert quick[0] == slow[0] == (256 << 10) - 1024
    assert max(quick) == (1 << 20) - 1024
    assert max(slow) == (256 << 10) - 1024


def test_chunks_begin_where_the_last_stream_ended():
    """And fall back to a quarter of a MiB where the link is slow now."""
    slow = _chunks(1.0, chunk=(1 << 20) - 1024)
    assert slow[0] == (1 << 20) - 1024
    assert slow[-1] == (256 << 10) - 1024


def test_a_link_that_is_slower_for_a_while_keeps_its_chunks():
    """Between the time at which a chunk would grow and that at which it shrinks it stays as it is."""
    assert set(_chunks(0.04, chunk=512 << 10)) == {512 << 10}
    assert min(_chunks(0.07, chunk=512 << 10)) < 512 << 10


def test_an_opening_is_not_repeated_sooner_than_told():
    """Who knows that the receiver is slow to answer waits longer before it says it again."""
    for first in (1.0, 4.0):
        sender = StreamSender(1, "update", {}, 4, "d", 1000, 0.0, whole=b"four", first=first)
        assert sender.tick(0.0)
        assert not sender.tick(first - 0.01)
        assert sender.tick(first)
        assert sender.handle(StreamDone(1), first + 0.5)
        assert sender.answered_s == first + 0.5
