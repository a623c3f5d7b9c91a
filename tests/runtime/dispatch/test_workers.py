"""Dead, silent, busy and slow workers."""

from __future__ import annotations

import random

import pytest

from msrt.dispatch import Cancel, ModelsReady, Tick, VersionTable, WorkerDown
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready, rows_of


def test_a_dead_workers_requests_go_to_another_at_once():
    """WorkerDown sends what was in flight there elsewhere in the same breath."""
    bench = Bench("a", "b")
    (send,) = bench.ask(question((1,)), question((2,)))
    (again,) = bench.do(WorkerDown(send.worker))
    assert again.worker != send.worker
    assert again.message.ids == send.message.ids
    bench.do(echo(again))
    assert len(bench.replies) == 2
    bench.end()


def test_after_three_workers_died_of_it_the_caller_is_told():
    """Attempts are bounded, and the last one is made alone."""
    bench = Bench("a", "b", "c", "d")
    (send,) = bench.ask(question((1,)), question((2,)))
    (send,) = bench.do(WorkerDown(send.worker))
    sends = bench.do(WorkerDown(send.worker))
    assert [len(send.message.ids) for send in sends] == [1, 1]
    for send in sends:
        if send.worker in bench.dispatcher.roster.workers:
            bench.do(WorkerDown(send.worker))
    assert {reject.error.code for reject in bench.rejects} == {"unavailable"}
    bench.end()


def test_a_silent_workers_requests_are_hedged_and_its_late_answer_is_ignored():
    """After the floor a stopped worker's work goes elsewhere; each caller is answered once; it then gets work again."""
    bench = Bench("a", "b")
    (send,) = bench.ask(question((7,)))
    (again,) = bench.until(0.2)
    assert again.worker != send.worker
    bench.do(echo(again))
    assert [rows_of(reply) for reply in bench.replies] == [(7,)]
    for _ in range(5):
        (other,) = bench.ask(question())
        assert other.worker == again.worker
        bench.do(echo(other))
    assert bench.recalls[0].worker == send.worker
    bench.do(echo(send))
    assert len(bench.replies) == 6
    assert bench.dispatcher.counters.late == 1
    assert not bench.dispatcher.roster.workers[send.worker].suspect
    bench.end()


def test_the_first_answer_wins_even_when_it_is_the_late_one():
    """A stalled worker that wakes before the hedge answers is heard; the other is told to forget it."""
    bench = Bench("a", "b")
    (send,) = bench.ask(question((7,)))
    (again,) = bench.until(0.2)
    bench.do(echo(send))
    assert [rows_of(reply) for reply in bench.replies] == [(7,)]
    assert bench.recalls[-1].worker == again.worker
    bench.do(echo(again))
    assert len(bench.replies) == 1
    bench.end()


def test_a_stopped_worker_costs_each_request_less_than_two_seconds():
    """With one of two workers stopped under load, the longest wait stays bounded and few pay it."""
    bench = Bench("a", "b", seed=3)
    waits = []
    for step in range(2000):
        bench.until(step * 0.005)
        request = question((step,), deadline=bench.now + 10)
        asked = bench.now
        sends = bench.ask(request)
        while not bench.replies or bench.replies[-1].request is not request:
            for send in sends:
                if send.worker == "a":
                    bench.do(echo(send))
            if request.state == 3:
                break
            sends = bench.until(bench.now + 0.01)
        waits.append(bench.now - asked)
    assert max(waits) <= 0.5
    assert sum(wait > 0.1 for wait in waits) <= 20


def test_a_lost_message_does_not_condemn_a_worker_that_answers_others():
    """One flight without answer among answered ones is sent again, and the worker stays in use."""
    bench = Bench("a")
    (lost,) = bench.ask(question((1,)))
    bench.now = 0.05
    (fine,) = bench.ask(question((2,)))
    bench.do(echo(fine))
    (again,) = bench.until(0.2)
    assert again.message.ids == lost.message.ids
    assert not bench.dispatcher.roster.workers["a"].suspect
    bench.do(echo(again))
    assert len(bench.replies) == 2
    bench.end()


def test_a_lone_worker_that_lost_a_message_is_probed():
    """Nobody else is there and silence lasts: the worker gets the request once more, and heals by answering."""
    bench = Bench("a")
    bench.ask(question((1,)))
    (probe,) = bench.until(1.0)
    assert probe.worker == "a"
    bench.do(echo(probe))
    assert rows_of(bench.replies[0]) == (1,)
    assert bench.ask(question())
    bench.until(bench.now)


def test_what_a_busy_worker_gives_back_goes_elsewhere_and_it_rests():
    """Overloaded is no fault of the request: another worker gets it, the busy one rests as long as it asked."""
    bench = Bench("a", "b")
    (send,) = bench.ask(question())
    (again,) = bench.do(failed(send, "overloaded", 400))
    assert again.worker != send.worker
    bench.do(echo(again))
    for _ in range(4):
        (other,) = bench.ask(question())
        assert other.worker == again.worker
        bench.do(echo(other))
    bench.until(0.5)
    bench.do(Tick())
    assert {send.worker for send in bench.ask(*(question(width=n) for n in range(1, 4)))} == {"a", "b"}


def test_a_lone_busy_worker_gets_it_again_after_its_rest():
    """With nobody else the request waits for the same worker instead of failing."""
    bench = Bench("a")
    (send,) = bench.ask(question((5,)))
    assert bench.do(failed(send, "unavailable", 100)) == []
    (again,) = bench.until(0.11)
    bench.do(echo(again))
    assert rows_of(bench.replies[0]) == (5,)
    bench.end()


def test_an_invalid_request_is_refused_at_once():
    """A request that is at fault itself is not tried elsewhere."""
    bench = Bench("a", "b")
    (send,) = bench.ask(question())
    assert bench.do(failed(send, "invalid_tensor")) == []
    assert bench.rejects[0].error.code == "invalid_tensor"
    bench.end()


def test_the_slower_worker_gets_fewer():
    """Power of two choices over latency: a worker ten times slower gets a small part, but not nothing."""
    bench = Bench("fast", "slow", window=8)
    counts = {"fast": 0, "slow": 0}
    busy, seen = [], 0
    for step in range(3000):
        bench.until(step * 0.001)
        for due, send in [pair for pair in busy if pair[0] <= bench.now]:
            busy.remove((due, send))
            bench.do(echo(send))
        bench.ask(question(deadline=bench.now + 5))
        for send in bench.sent[seen:]:
            counts[send.worker] += len(send.message.ids)
            busy.append((bench.now + (0.002 if send.worker == "fast" else 0.02), send))
        seen = len(bench.sent)
    assert 0 < counts["slow"] < 0.2 * counts["fast"]


def test_only_workers_with_the_version_ready_get_requests():
    """A worker that loads, failed, or has another version gets none."""
    bench = Bench("a")
    bench.up("b", models=(ready(version=2),))
    for _ in range(6):
        (send,) = bench.ask(question())
        assert send.worker == "a"
        bench.do(echo(send))
    (send,) = bench.ask(question(version=2))
    assert (send.worker, send.message.version) == ("b", 2)
    bench.do(ModelsReady("a", ()))
    assert bench.ask(question()) == []


def test_the_candidate_gets_its_share_and_nothing_before_it_is_ready():
    """With a share, about that part of the unnamed requests goes to the candidate once a worker has it."""
    bench = Bench("a", "b", window=10**6)
    bench.do(VersionTable("m", 1, 2, share=0.25))
    assert {send.message.version for n in range(50) for send in bench.ask(question())} == {1}
    bench.do(ModelsReady("b", (ready(), ready(version=2))))
    sends = [send for n in range(1000) for send in bench.ask(question())]
    assert 180 < sum(send.message.version == 2 for send in sends) < 320
    assert {send.worker for send in sends if send.message.version == 2} == {"b"}


def test_canary_workers_answer_with_the_candidate_and_others_with_the_stable():
    """With named workers the version follows the worker; one that has not loaded it yet still serves the stable."""
    bench = Bench("a", "b", "c", window=10**6)
    bench.do(VersionTable("m", 1, 2, workers=frozenset({"b", "c"})))
    bench.do(ModelsReady("b", (ready(), ready(version=2))))
    sends = [send for _ in range(200) for send in bench.ask(question())]
    assert {(send.worker, send.message.version) for send in sends} == {("a", 1), ("b", 2), ("c", 1)}


@pytest.mark.parametrize("code", ["model_failed", "invalid_tensor"])
def test_what_the_candidate_could_not_do_the_stable_version_does(code):
    """Its callers need not suffer for a trial, not even where it says that they are at fault; and its faults count."""
    bench = Bench("a", window=10**6)
    bench.do(VersionTable("m", 1, 2, share=1.0))
    bench.do(ModelsReady("a", (ready(), ready(version=2))))
    (send,) = bench.ask(question())
    assert send.message.version == 2
    sends = bench.do(failed(send, code)) or bench.until(bench.now + 1.0)
    assert [again.message.version for again in sends] == [1]
    bench.do(echo(sends[0]))
    assert len(bench.replies) == 1
    assert bench.dispatcher.counters.faults == {"m": {2: 1}}
    bench.end()


def test_a_candidate_whose_workers_are_all_ejected_gets_no_share():
    """Its requests would only wait: the stable version takes them, until a probe says that it works again."""
    bench = Bench("a", window=10**6)
    bench.do(VersionTable("m", 1, 2, share=1.0))
    bench.do(ModelsReady("a", (ready(), ready(version=2))))
    (slot,) = bench.dispatcher.roster.pools["m", -1].slots
    slot.breaker.trip(bench.now, random.Random(1))
    slot.refresh()
    assert {send.message.version for send in bench.ask(question())} == {1}


def test_requests_that_wait_for_a_withdrawn_candidate_get_the_stable_version():
    """A rollback in the middle loses nobody."""
    bench = Bench("a", window=1)
    bench.up("b", models=(ready(version=2),))
    bench.do(VersionTable("m", 1, 2, share=1.0))
    first, *_ = bench.ask(*(question((n,)) for n in range(3)))
    assert first.message.version == 2
    bench.ask(question((9,)))
    sends = bench.do(VersionTable("m", 1))
    assert {send.message.version for send in sends} == {1}
    sends += bench.do(WorkerDown("b"))
    while len(bench.replies) < 4:
        sends += bench.do(echo(sends.pop(0)))
    bench.end()


def test_a_cancelled_request_is_forgotten_and_recalled():
    """Nobody waits: no reply comes, the worker is told, and a waiting one is never sent."""
    bench = Bench("a", window=1)
    flying, waiting = question((1,)), question((2,))
    (send,) = bench.ask(flying)
    bench.ask(waiting)
    bench.do(Cancel(waiting))
    assert bench.do(Cancel(flying)) == []
    assert [recall.ids for recall in bench.recalls] == [send.message.ids]
    bench.do(echo(send))
    assert not bench.replies
    assert len(bench.sent) == 1
    bench.end()


def test_a_request_cancelled_before_it_is_submitted_is_never_sent():
    """The shell collects requests of one loop turn; a caller may leave in between."""
    bench = Bench("a")
    request = question()
    bench.do(Cancel(request))
    assert bench.ask(request) == []
    assert not bench.settled
    bench.end()


def test_a_full_link_does_not_prove_that_a_stopped_worker_lives():
    """What the shell says about the link heals nobody: a probe that the link refuses leaves the worker suspect."""
    bench = Bench("a")
    bench.ask(question())
    (probe,) = bench.until(0.7)
    bench.do(failed(probe, "overloaded"))
    assert bench.dispatcher.roster.workers["a"].suspect


def test_a_hundred_updates_leave_no_pools_behind():
    """Versions come and go; what is kept does not grow."""
    bench = Bench("a")
    for version in range(2, 102):
        bench.do(ModelsReady("a", (ready(version=version - 1), ready(version=version))))
        bench.do(VersionTable("m", version))
        (send,) = bench.ask(question())
        assert send.message.version == version
        bench.do(echo(send))
    assert len(bench.dispatcher.roster.pools) <= 4
