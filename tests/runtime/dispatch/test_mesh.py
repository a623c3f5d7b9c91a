"""Deadlines at the door, priorities, hedges, sequences, and answers that are no numbers."""

from __future__ import annotations

import math
import struct

import msgspec

from msrt.dispatch import Answered, WorkerDown
from msrt.dispatch.breaker import Circuit
from msrt.protocol.messages import Inferred, TensorSpec
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready, rows_of


def taught(bench, seconds=0.02, times=60):
    """Every worker has answered so often, each time after so long."""
    for _ in range(times):
        for send in bench.ask(*[question(deadline=bench.now + 30) for _ in range(2)]):
            bench.until(bench.now + seconds)
            bench.do(echo(send))
    bench.until(bench.now + 0.2)
    return bench


def floats(send, value):
    message = send.message
    outputs = (TensorSpec("y", "FP32", (sum(message.rows), 1)),)
    data = struct.pack("<f", value) * sum(message.rows)
    answer = Inferred(message.ids, message.rows, message.model, message.version, "fp32", "d", outputs)
    return Answered(send.worker, answer, (data,))


def test_what_cannot_make_its_deadline_is_refused_at_the_door():
    """Two busy workers of 20 ms and a hundred waiting: 30 ms are not enough, and the error says when to come back."""
    bench = taught(Bench("a", "b", models=(ready(batch=False),)))
    bench.ask(*[question(deadline=bench.now + 30) for _ in range(100)])
    before = len(bench.rejects)
    bench.ask(question(deadline=bench.now + 0.03))
    (refused,) = bench.rejects[before:]
    assert refused.error.code == "overloaded"
    assert refused.error.retry_after >= 0.05
    assert bench.dispatcher.counters.hopeless == 1
    bench.ask(question(deadline=bench.now + 20))
    assert len(bench.rejects) == before + 1


def test_an_estimate_is_tried_now_and_then():
    """A deadline below what is usual is let in once in a while on an idle worker: it may have become faster."""
    bench = taught(Bench("a"))
    first = bench.ask(question(deadline=bench.now + 0.001))
    assert first
    bench.do(echo(first[0]))
    assert bench.ask(question(deadline=bench.now + 0.001)) == []


def test_an_urgent_request_goes_first_and_a_background_one_is_not_starved():
    """The head start of a priority is a quarter of a second, not for ever."""
    bench = Bench("a", models=(ready(batch=False),), window=1)
    (flying,) = bench.ask(question((0,)))

    def rank(value, priority):
        request = question((value,))
        request.priority = priority
        return request

    bench.ask(rank(1, -1))
    bench.until(0.05)
    bench.ask(rank(2, 0))
    bench.ask(rank(3, 1))
    while flying:
        flying = (bench.do(echo(flying)) or [None])[0]
    assert [rows_of(reply)[0] for reply in bench.replies] == [0, 3, 2, 1]
    (flying,) = bench.ask(question((0,)))
    bench.ask(rank(4, -1))
    bench.now += 0.6
    bench.ask(rank(5, 1))
    (flying,) = bench.do(echo(flying))
    (flying,) = bench.do(echo(flying))
    bench.do(echo(flying))
    assert [rows_of(reply)[0] for reply in bench.replies[-2:]] == [4, 5]
    bench.end()


def test_a_late_batch_is_asked_of_a_second_worker_within_the_budget():
    """Later than what is usual and long before the stall: the other gets it too, and its answer is the caller's."""
    bench = taught(Bench("a", "b"), times=160)
    (send,) = bench.ask(question((7,), deadline=bench.now + 30))
    began = bench.now
    again = bench.until(bench.now + 0.14)
    assert [each.worker != send.worker for each in again] == [True]
    assert bench.now - began < 0.15
    bench.do(echo(again[0]))
    assert rows_of(bench.replies[-1]) == (7,)
    assert (bench.dispatcher.counters.hedged, bench.dispatcher.counters.hedge_wins) == (1, 1)
    assert bench.recalls[-1].worker == send.worker
    bench.end()


def test_a_worker_that_hedges_hide_is_found_silent():
    """Others answer for it in time, so nothing of it is ever overdue: that it says nothing is seen all the same."""
    bench = taught(Bench("a", "b", models=(ready(batch=False),)), times=160)
    silent = bench.dispatcher.roster.workers["a"]
    began = bench.now
    while not silent.suspect:
        waiting = bench.ask(*[question(deadline=bench.now + 30) for _ in range(4)])
        while waiting:
            waiting += bench.until(bench.now + 0.01)
            waiting = [send for send in waiting if send.worker != "a"]
            waiting += [again for send in waiting[:1] for again in bench.do(echo(send))]
            waiting = waiting[1:]
        assert bench.now - began < 1.0
    assert bench.dispatcher.counters.stalled == 1
    bench.until(bench.now + 1)
    assert not [send for send in bench.ask(question(deadline=bench.now + 30)) if send.worker == "a"][1:]


def test_who_lost_a_race_counts_as_slow_as_that():
    """Its own answer comes too late to be learnt from: the time it took by then is."""
    bench = taught(Bench("a", "b"), times=160)
    (send,) = bench.ask(question(deadline=bench.now + 30))
    slot = bench.dispatcher.roster.workers[send.worker].slots["m", 1]
    before = slot.latency.recent
    (again,) = bench.until(bench.now + 0.14)
    bench.do(echo(again))
    assert slot.latency.recent > 5 * before


def test_hedges_stay_within_a_twentieth_of_the_work():
    """However late everybody is."""
    bench = taught(Bench("a", "b", hedge_most=1.0), times=200)
    for _ in range(200):
        (send, *_) = bench.ask(question(deadline=bench.now + 30))
        bench.until(bench.now + 0.1)
        bench.do(echo(send))
        bench.until(bench.now + 0.05)
    assert 1 <= bench.dispatcher.counters.hedged <= 1 + 0.05 * 600


def sequence(name, *, start=False, end=False, value=1, deadline=60.0):
    request = question((value,), deadline=deadline)
    request.sequence, request.sequence_start, request.sequence_end = name, start, end
    return request


def test_a_sequence_stays_with_its_worker():
    """Twenty requests, one place, each alone and in order."""
    bench = Bench("a", "b", "c")
    (first,) = bench.ask(sequence("s", start=True))
    bench.do(echo(first))
    for _ in range(20):
        (send,) = bench.ask(sequence("s"))
        assert send.worker == first.worker
        assert send.message.sequence == "s"
        bench.do(echo(send))
    (last,) = bench.ask(sequence("s", end=True))
    bench.do(echo(last))
    bench.ask(sequence("s"))
    assert bench.rejects[-1].error.code == "sequence_lost"
    bench.end()


def test_a_sequence_that_nobody_can_begin_is_not_lost_but_to_be_begun_later():
    """No worker holds the model: the caller hears unavailable, which is asked again; nothing was lost."""
    bench = Bench()
    bench.ask(sequence("s", start=True))
    assert [reject.error.code for reject in bench.rejects] == ["unavailable"]
    assert bench.dispatcher.counters.sequences_lost == 0
    bench.up("a")
    (send,) = bench.ask(sequence("s", start=True))
    bench.do(echo(send))
    bench.end()


def test_a_sequence_that_was_not_let_in_keeps_no_place():
    """Its first step was larger than what its worker may be sent."""
    bench = Bench()
    bench.up("a", limit=1)
    bench.ask(sequence("s", start=True))
    assert [reject.error.code for reject in bench.rejects] == ["frame_too_large"]
    assert len(bench.dispatcher.flow.sequences) == 0


def test_a_sequence_dies_with_its_worker_and_says_so():
    """In flight, waiting, and to come: each is told that the state is gone; nobody else is asked."""
    bench = Bench("a", "b", window=1)
    (send,) = bench.ask(sequence("s", start=True))
    bench.ask(sequence("s"))
    assert bench.do(WorkerDown(send.worker)) == []
    assert [reject.error.code for reject in bench.rejects] == ["sequence_lost"] * 2
    bench.ask(sequence("s"))
    assert bench.rejects[-1].error.code == "sequence_lost"
    (again,) = bench.ask(sequence("s", start=True))
    assert again.worker != send.worker
    bench.do(echo(again))
    bench.end()


def test_not_a_number_is_believed_only_twice():
    """A worker that answers NaN where another does not is ejected after some; the caller gets the number."""
    bench = Bench("a", "b", "c")
    for _ in range(60):
        sends = bench.ask(question())
        while sends:
            send = sends.pop()
            sends += bench.do(floats(send, math.nan if send.worker == "a" else 0.5))
    values = {struct.unpack("<f", bytes(reply.frames[0]))[0] for reply in bench.replies}
    assert values == {0.5}
    sick = bench.dispatcher.roster.workers["a"].slots["m", 1]
    assert sick.breaker.circuit is not Circuit.CLOSED
    bench.end()


def test_a_model_that_answers_not_a_number_everywhere_is_nobodys_fault():
    """After a second opinion the answer is what it is."""
    bench = Bench("a", "b")
    sends = bench.ask(question())
    while sends:
        sends += bench.do(floats(sends.pop(), math.nan))
    assert len(bench.replies) == 1
    assert bench.dispatcher.counters.ejected == 0
    bench.end()


def test_a_model_that_fails_on_one_worker_is_taken_out_there():
    """Five failures in a row: the others get everything, and after its rest it is asked again."""
    bench = Bench("a", "b", "c", pause_s=0.001, max_attempts=5)
    for _ in range(80):
        sends = bench.ask(question(deadline=bench.now + 10))
        while sends:
            send = sends.pop()
            bench.now += 0.001
            sends += bench.do(failed(send, "model_failed") if send.worker == "a" else echo(send))
        bench.until(bench.now + 0.005)
    seen = [send.worker for send in bench.sent[-20:]]
    assert "a" not in seen
    assert bench.dispatcher.counters.ejected == 1
    bench.until(bench.now + 3)
    for _ in range(40):
        for send in bench.ask(question(deadline=bench.now + 10)):
            bench.now += 0.001
            bench.do(echo(send))
    assert "a" in [send.worker for send in bench.sent[-40:]]
    bench.end()


def test_a_batch_waits_for_riders_while_its_worker_is_busy():
    """The second batch leaves when the first is nearly through, with all that came meanwhile."""
    bench = taught(Bench("a"), seconds=0.05)
    (first,) = bench.ask(question(deadline=bench.now + 10))
    began = bench.now
    for _ in range(10):
        assert bench.ask(question(deadline=bench.now + 10)) == []
        bench.until(bench.now + 0.001)
    (second,) = bench.until(began + 0.06)
    assert len(second.message.ids) == 10
    bench.do(echo(first))
    bench.do(echo(second))
    bench.end()


def test_a_probe_of_the_workers_own_load_steers_the_next_choice():
    """A worker whose sensors keep it busy says so in its answer, and gets less."""
    bench = Bench("a", "b")
    counts = {"a": 0, "b": 0}
    for _ in range(300):
        for send in bench.ask(question(deadline=bench.now + 10)):
            counts[send.worker] += 1
            answered = echo(send)
            message = msgspec.structs.replace(answered.message, depth=50 if send.worker == "a" else 0, compute_us=900)
            bench.until(bench.now + 0.001)
            bench.do(Answered(answered.worker, message, answered.frames))
    assert counts["a"] < 0.2 * counts["b"]
    bench.end()
